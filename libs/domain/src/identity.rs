//! Who and what a request may name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest userId, in bytes of UTF-8.
pub const MAX_USER_ID_BYTES: usize = 256;

/// Longest eventId: the longest name that Kubernetes allows a resource.
pub const MAX_EVENT_NAME_BYTES: usize = 253;

/// The user who asks: 1 to 256 bytes of UTF-8 without control characters, not beginning or ending with white space.
///
/// Two ids are the same user only if all their bytes are the same: nothing is folded or normalized.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserId(String);

/// The event that is asked: the name of its `CouponEvent`, a DNS-1123 subdomain as Kubernetes has it.
///
/// It becomes part of Redis keys, so nothing else may get through (braces would change the key's slot, colons its kind).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventName(String);

/// Why a text is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The userId is empty.
    #[error("userId is empty")]
    EmptyUser,
    /// The userId is longer than [`MAX_USER_ID_BYTES`].
    #[error("userId has more than {MAX_USER_ID_BYTES} bytes")]
    LongUser,
    /// The userId has a control character.
    #[error("userId has a control character")]
    ControlInUser,
    /// The userId begins or ends with white space.
    #[error("userId begins or ends with white space")]
    SpaceAroundUser,
    /// The eventId is no name of a Kubernetes resource.
    #[error(
        "eventId is not the name of a CouponEvent: 1 to {MAX_EVENT_NAME_BYTES} of a-z, 0-9, '-' and '.', \
         beginning and ending with a letter or digit"
    )]
    Event,
}

impl TryFrom<String> for UserId {
    type Error = InvalidId;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        if id.is_empty() {
            Err(InvalidId::EmptyUser)
        } else if id.len() > MAX_USER_ID_BYTES {
            Err(InvalidId::LongUser)
        } else if id.chars().any(char::is_control) {
            Err(InvalidId::ControlInUser)
        } else if id.trim() != id {
            Err(InvalidId::SpaceAroundUser)
        } else {
            Ok(Self(id))
        }
    }
}

impl TryFrom<String> for EventName {
    type Error = InvalidId;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        let label = |label: &str| {
            let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            edge(label.bytes().next())
                && edge(label.bytes().last())
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if id.len() <= MAX_EVENT_NAME_BYTES && id.split('.').all(label) { Ok(Self(id)) } else { Err(InvalidId::Event) }
    }
}

macro_rules! text {
    ($id:ident) => {
        impl $id {
            /// The id as it was given.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $id {
            type Err = InvalidId;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                s.to_owned().try_into()
            }
        }

        impl From<$id> for String {
            fn from(id: $id) -> Self {
                id.0
            }
        }

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text!(UserId);
text!(EventName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_may_be_named_in_any_script() {
        for id in ["u1", "한국어", "user@example.com", "a b", "{x}:y", "🎟", &"x".repeat(256)] {
            assert_eq!(id.parse::<UserId>().unwrap().as_str(), id);
        }
    }

    #[test]
    fn users_without_a_proper_name_are_refused() {
        let long = "x".repeat(300);
        for (id, why) in [
            ("", InvalidId::EmptyUser),
            (long.as_str(), InvalidId::LongUser),
            ("a\0b", InvalidId::ControlInUser),
            ("a\nb", InvalidId::ControlInUser),
            ("\u{85}", InvalidId::ControlInUser),
            (" a", InvalidId::SpaceAroundUser),
            ("a\u{a0}", InvalidId::SpaceAroundUser),
        ] {
            assert_eq!(id.parse::<UserId>(), Err(why), "{id:?}");
        }
    }

    #[test]
    fn events_are_named_as_kubernetes_names_them() {
        for id in ["summer", "summer-2026", "a.b", "1"] {
            assert!(id.parse::<EventName>().is_ok(), "{id}");
        }
        for id in ["", "{x}", "a:b", "Summer", "-a", "a-", "a..b", "a b", "ä", &"a".repeat(254)] {
            assert_eq!(id.parse::<EventName>(), Err(InvalidId::Event), "{id}");
        }
    }
}
