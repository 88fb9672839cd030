//! The bearer token of a request (RFC 6750).

use axum::http::{HeaderMap, header};

/// The fault of a request without a bearer token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BearerError {
    /// The header `Authorization` is missing.
    Missing,
    /// The request has more than one header `Authorization`.
    Repeated,
    /// The header does not have the form `Bearer TOKEN`.
    NotBearer,
    /// The token is empty.
    Empty,
}

/// Returns the token in the only header `Authorization` of the request.
pub fn bearer_token(headers: &HeaderMap) -> Result<&str, BearerError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(BearerError::Missing)?;
    if values.next().is_some() {
        return Err(BearerError::Repeated);
    }
    let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(BearerError::NotBearer)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(BearerError::NotBearer);
    }
    let token = token.trim();
    if token.is_empty() { Err(BearerError::Empty) } else { Ok(token) }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn bearer_token_of_invalid_request_returns_its_fault() {
        let token = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
            }
            bearer_token(&headers).map(str::to_owned)
        };
        assert_eq!(token(&[b"bearer  abc "]), Ok("abc".to_owned()));
        assert_eq!(token(&[]), Err(BearerError::Missing));
        assert_eq!(token(&[b"Bearer abc", b"Bearer abc"]), Err(BearerError::Repeated));
        for value in [b"Bearer".as_slice(), b"Basic abc", b"Bearer \xff"] {
            assert_eq!(token(&[value]), Err(BearerError::NotBearer), "{}", value.escape_ascii());
        }
        assert_eq!(token(&[b"Bearer  "]), Err(BearerError::Empty));
    }
}
