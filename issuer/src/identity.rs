//! Who the user is.

use std::str::FromStr;

use axum::http::{HeaderMap, HeaderName};
use domain::UserId;

use crate::problem::Problem;

/// Where the userId comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UserIdentity {
    /// The request says it itself: anyone can ask for anyone.
    Body,
    /// A trusted proxy says it in this header.
    Header(HeaderName),
}

impl FromStr for UserIdentity {
    type Err = String;

    fn from_str(source: &str) -> Result<Self, Self::Err> {
        if source == "body" {
            return Ok(Self::Body);
        }
        let name = source.strip_prefix("header:").ok_or("use `body` or `header:NAME`")?;
        HeaderName::from_str(name).map(Self::Header).map_err(|_| format!("{name:?} is no name of a header"))
    }
}

impl UserIdentity {
    pub(crate) fn warn_if_unsafe(&self) {
        if *self == Self::Body {
            tracing::warn!("--user-identity body: everyone can ask in everyone's name. Use this for trials only.");
        }
    }

    /// The user of a request that names `claimed`, or nobody.
    pub(crate) fn user(&self, headers: &HeaderMap, claimed: Option<String>) -> Result<UserId, Problem> {
        let id = match self {
            Self::Body => claimed.ok_or_else(|| Problem::invalid("missing field `userId`"))?,
            Self::Header(name) => {
                let mut values = headers.get_all(name).iter();
                let value = values.next().ok_or_else(|| Problem::unauthorized(format!("no header {name}")))?;
                if values.next().is_some() {
                    // The proxy has added its own to one that the client sent: nobody knows which is which.
                    return Err(Problem::unauthorized(format!("more than one header {name}")));
                }
                let value = std::str::from_utf8(value.as_bytes())
                    .map_err(|_| Problem::unauthorized(format!("the header {name} is not UTF-8")))?;
                if claimed.is_some_and(|claimed| claimed != value) {
                    return Err(Problem::invalid("the request names another user than the one who is signed in"));
                }
                value.to_owned()
            }
        };
        id.try_into().map_err(|error: domain::identity::InvalidId| Problem::invalid(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_read_from_its_flag() {
        assert_eq!("body".parse(), Ok(UserIdentity::Body));
        assert_eq!("header:X-User-Id".parse(), Ok(UserIdentity::Header(HeaderName::from_static("x-user-id"))));
        assert!("header:a b".parse::<UserIdentity>().is_err());
        assert!("cookie".parse::<UserIdentity>().is_err());
    }

    #[test]
    fn a_header_outranks_what_the_request_claims() {
        let identity: UserIdentity = "header:X-User-Id".parse().unwrap();
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-user-id"), "u1".parse().unwrap())]);
        assert_eq!(identity.user(&headers, None).unwrap().as_str(), "u1");
        assert_eq!(identity.user(&headers, Some("u1".into())).unwrap().as_str(), "u1");
        assert_eq!(identity.user(&headers, Some("u2".into())).unwrap_err().status(), 400);
        assert_eq!(identity.user(&HeaderMap::new(), Some("u2".into())).unwrap_err().status(), 401);
        let mut forged = headers;
        forged.append("x-user-id", "u2".parse().unwrap());
        assert_eq!(identity.user(&forged, None).unwrap_err().status(), 401);
    }
}
