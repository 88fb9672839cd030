//! Why nobody is believed to be the user. The reason is a label of a metric; the words help whoever writes the client, and name
//! nothing that is secret.

use crate::problem::Problem;

/// What is wrong, shortly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// No header with the user.
    NoHeader,
    /// A header with the user that cannot be read.
    BadHeader,
    /// No token.
    NoToken,
    /// Something else than a signed token.
    Malformed,
    /// The key is not for the token's algorithm.
    Algorithm,
    /// No such key.
    UnknownKey,
    /// Signed by someone else.
    Signature,
    /// Too late.
    Expired,
    /// Too early.
    NotYetValid,
    /// From someone else.
    Issuer,
    /// For someone else.
    Audience,
    /// A claim is missing or has a strange form.
    Claims,
    /// The token names no possible user.
    User,
    /// The request asks for another user.
    OtherUser,
    /// The keys are away: nobody knows.
    KeysAway,
}

impl Reason {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::NoHeader => "no_header",
            Self::BadHeader => "bad_header",
            Self::NoToken => "no_token",
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claims => "claims",
            Self::User => "user",
            Self::OtherUser => "other_user",
            Self::KeysAway => "keys_away",
        }
    }
}

/// A reason, and what to change.
#[derive(Debug)]
pub(super) struct Refusal {
    reason: Reason,
    detail: String,
}

impl Refusal {
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    pub(super) const fn reason(&self) -> Reason {
        self.reason
    }
}

impl From<Refusal> for Problem {
    fn from(Refusal { reason, detail }: Refusal) -> Self {
        match reason {
            Reason::OtherUser => Self::invalid(detail),
            // Who is signed in must not be told otherwise because of us.
            Reason::KeysAway => Self::unavailable(detail),
            Reason::NoHeader | Reason::BadHeader => Self::unauthorized(detail),
            Reason::NoToken => Self::unauthorized(detail).with_challenge(r#"Bearer realm="couponry""#),
            _ => Self::unauthorized(detail).with_challenge(r#"Bearer realm="couponry", error="invalid_token""#),
        }
    }
}
