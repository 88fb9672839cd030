//! Valid names: of users, events, orders and requests.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The maximum length of a userId, in bytes of UTF-8.
pub const MAX_USER_ID_BYTES: usize = 256;

/// The maximum length of an eventId, which the CRD enforces for the names of its objects.
pub const MAX_EVENT_NAME_BYTES: usize = 63;

/// The pattern of event names for JSON Schema: a DNS-1123 subdomain.
pub const EVENT_NAME_PATTERN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// The pattern of user ids for JSON Schema, without control characters, invisible characters and surrounding white
/// space: visible ASCII characters, and others that joiners and variation selectors may follow, with spaces between
/// them.
pub const USER_ID_PATTERN: &str = {
    macro_rules! character {
        () => {
            concat!(
                r"(?:[!-~]|[^\u0000-\u00A0\u00AD\u034F\u061C\u115F\u1160\u1680\u17B4\u17B5\u180B-\u180F\u2000-\u200F",
                r"\u2028-\u202F\u205F-\u206F\u3000\u3164\uFE00-\uFE0F\uFEFF\uFFA0\uFFF0-\uFFFB",
                // Written as characters, because the escapes of dialects differ beyond four digits.
                "\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}]",
                r"[\u200C\u200D\uFE00-\uFE0F]*)"
            )
        };
    }
    concat!("^", character!(), r"(?:[ \u00A0\u1680\u2000-\u200A\u202F\u205F\u3000]*", character!(), ")*$")
};

/// The id of a user: 1 to 256 bytes of UTF-8 without control characters, invisible characters, and leading or trailing
/// white space.
///
/// Two ids are the same user only if they have the same bytes: neither case nor Unicode is normalized.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserId(String);

/// The name of a `CouponEvent`, which requests send as `eventId`: a DNS-1123 subdomain.
///
/// It is part of Redis keys, so no other character is allowed: a brace would change the hash slot of the key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventName(String);

/// The maximum length of an orderId, in characters.
pub const MAX_ORDER_ID_CHARACTERS: usize = 128;

/// The maximum length of an idempotency key, in characters.
pub const MAX_REQUEST_ID_CHARACTERS: usize = 128;

/// The order of a shop that uses a coupon: 1 to 128 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrderId(String);

/// The idempotency key of a request: 1 to 128 visible ASCII characters without quotation marks and backslashes, so that
/// it is the same with and without the quotation marks of its header.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(String);

/// The text is not a valid name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The userId is empty.
    #[error("userId is empty")]
    UserIdEmpty,
    /// The userId is longer than [`MAX_USER_ID_BYTES`].
    #[error("userId has more than {MAX_USER_ID_BYTES} bytes")]
    UserIdTooLong,
    /// The userId has a control character.
    #[error("userId has a control character")]
    UserIdControlCharacter,
    /// The userId has a character that is not displayed, or that reverses the order of others.
    #[error("userId has an invisible character, or one that changes the direction of the text")]
    UserIdInvisibleCharacter,
    /// The userId begins or ends with white space.
    #[error("userId begins or ends with white space")]
    UserIdSurroundingSpace,
    /// The eventId is not a valid name of a Kubernetes resource.
    #[error(
        "eventId is not a valid name of a CouponEvent: it has 1 to {MAX_EVENT_NAME_BYTES} characters a-z, 0-9, '-' \
         and '.', and begins and ends with a letter or digit"
    )]
    EventName,
    /// The orderId is not 1 to [`MAX_ORDER_ID_CHARACTERS`] visible ASCII characters.
    #[error("orderId is not 1 to {MAX_ORDER_ID_CHARACTERS} visible ASCII characters without spaces")]
    OrderId,
    /// The idempotency key is not 1 to [`MAX_REQUEST_ID_CHARACTERS`] visible ASCII characters.
    #[error(
        "the idempotency key is not 1 to {MAX_REQUEST_ID_CHARACTERS} visible ASCII characters without spaces, \
         quotation marks and backslashes"
    )]
    RequestId,
}

impl TryFrom<String> for UserId {
    type Error = InvalidId;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        if id.is_empty() {
            Err(InvalidId::UserIdEmpty)
        } else if id.len() > MAX_USER_ID_BYTES {
            Err(InvalidId::UserIdTooLong)
        } else if id.chars().any(char::is_control) {
            Err(InvalidId::UserIdControlCharacter)
        } else if has_invisible_character(&id) {
            Err(InvalidId::UserIdInvisibleCharacter)
        } else if id.trim() != id {
            Err(InvalidId::UserIdSurroundingSpace)
        } else {
            Ok(Self(id))
        }
    }
}

/// Whether the text has a character that is not displayed (`Default_Ignorable_Code_Point` of Unicode, the blank braille
/// pattern), that separates lines, or that is not a character of Unicode. Joiners and variation selectors are part of
/// emoji and of some scripts: they are allowed after a character that is not ASCII.
fn has_invisible_character(text: &str) -> bool {
    // Most ids are ASCII.
    !text.is_ascii()
        && text.chars().zip(std::iter::once('\0').chain(text.chars())).any(|(c, before)| match c {
            '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' => before.is_ascii() || before.is_whitespace(),
            '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{2800}'
            | '\u{fdd0}'..='\u{fdef}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}' => true,
            // The last two code points of each plane are not characters.
            _ => u32::from(c) & 0xfffe == 0xfffe,
        })
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
        if id.len() <= MAX_EVENT_NAME_BYTES && id.split('.').all(label) {
            Ok(Self(id))
        } else {
            Err(InvalidId::EventName)
        }
    }
}

impl TryFrom<String> for OrderId {
    type Error = InvalidId;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        let is_valid = (1..=MAX_ORDER_ID_CHARACTERS).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
        if is_valid { Ok(Self(id)) } else { Err(InvalidId::OrderId) }
    }
}

impl TryFrom<String> for RequestId {
    type Error = InvalidId;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        let is_allowed = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        let is_valid = (1..=MAX_REQUEST_ID_CHARACTERS).contains(&id.len()) && id.bytes().all(is_allowed);
        if is_valid { Ok(Self(id)) } else { Err(InvalidId::RequestId) }
    }
}

macro_rules! text_conversions {
    ($id:ident) => {
        impl $id {
            /// The id as text.
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

text_conversions!(UserId);
text_conversions!(EventName);
text_conversions!(OrderId);
text_conversions!(RequestId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_id_in_any_script_is_valid() {
        for id in [
            "u1",
            "한국어",
            "user@example.com",
            "a b",
            "{x}:y",
            "🎟",
            "👨\u{200d}👩\u{200d}👧",
            "❤\u{fe0f}",
            "می\u{200c}خواهم",
            "A\u{300}",
            &"x".repeat(256),
        ] {
            assert_eq!(id.parse::<UserId>().unwrap().as_str(), id);
        }
    }

    #[test]
    fn invalid_user_id_is_rejected() {
        let long = "x".repeat(300);
        for (id, error) in [
            ("", InvalidId::UserIdEmpty),
            (long.as_str(), InvalidId::UserIdTooLong),
            ("a\0b", InvalidId::UserIdControlCharacter),
            ("a\nb", InvalidId::UserIdControlCharacter),
            ("\u{85}", InvalidId::UserIdControlCharacter),
            (" a", InvalidId::UserIdSurroundingSpace),
            ("a\u{a0}", InvalidId::UserIdSurroundingSpace),
            ("u\u{200b}1", InvalidId::UserIdInvisibleCharacter),
            ("u1\u{200d}", InvalidId::UserIdInvisibleCharacter),
            ("u1\u{fe0f}", InvalidId::UserIdInvisibleCharacter),
            ("\u{200d}u1", InvalidId::UserIdInvisibleCharacter),
            ("\u{feff}u1", InvalidId::UserIdInvisibleCharacter),
            ("\u{202e}1u", InvalidId::UserIdInvisibleCharacter),
            ("u\u{ad}1", InvalidId::UserIdInvisibleCharacter),
            ("\u{2066}u1\u{2069}", InvalidId::UserIdInvisibleCharacter),
            ("a\u{2028}b", InvalidId::UserIdInvisibleCharacter),
            ("\u{3164}", InvalidId::UserIdInvisibleCharacter),
            ("u1\u{e0041}", InvalidId::UserIdInvisibleCharacter),
            ("u\u{2800}1", InvalidId::UserIdInvisibleCharacter),
            ("u1\u{fffe}", InvalidId::UserIdInvisibleCharacter),
            ("u1\u{1ffff}", InvalidId::UserIdInvisibleCharacter),
            ("u1\u{fdd0}", InvalidId::UserIdInvisibleCharacter),
        ] {
            assert_eq!(id.parse::<UserId>(), Err(error), "{id:?}");
        }
    }

    #[test]
    fn event_name_follows_kubernetes_rules() {
        for id in ["summer", "summer-2026", "a.b", "1"] {
            assert!(id.parse::<EventName>().is_ok(), "{id}");
        }
        for id in ["", "{x}", "a:b", "Summer", "-a", "a-", "a..b", "a b", "ä", &"a".repeat(254)] {
            assert_eq!(id.parse::<EventName>(), Err(InvalidId::EventName), "{id}");
        }
    }

    #[test]
    fn order_and_request_ids_are_visible_ascii_characters() {
        for id in ["1", "#1001", "gid://shop/Order/1", &"x".repeat(128)] {
            assert!(id.parse::<OrderId>().is_ok() && id.parse::<RequestId>().is_ok(), "{id}");
        }
        for id in ["", "a b", "ä", "a\n", &"x".repeat(129)] {
            assert_eq!(id.parse::<OrderId>(), Err(InvalidId::OrderId), "{id}");
            assert_eq!(id.parse::<RequestId>(), Err(InvalidId::RequestId), "{id}");
        }
        assert_eq!("\"a\"".parse::<RequestId>(), Err(InvalidId::RequestId));
        assert_eq!("a\\".parse::<RequestId>(), Err(InvalidId::RequestId));
    }
}
