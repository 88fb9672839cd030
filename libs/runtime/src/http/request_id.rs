//! Request ids, with which a client and the log of a server name the same request.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// The header of a request and of its response.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const MAX_ID_BYTES: usize = 128;

/// The id that the client has sent. Without a valid one, the request gets a new id.
pub(super) fn identify(headers: &mut HeaderMap) -> HeaderValue {
    if let Some(id) = headers.get(REQUEST_ID).filter(|id| is_loggable(id)) {
        return id.clone();
    }
    let id = generate();
    headers.insert(REQUEST_ID, id.clone());
    id
}

/// Whether a header is short and printable, so that it cannot forge log entries.
#[must_use]
pub fn is_loggable(value: &HeaderValue) -> bool {
    (1..=MAX_ID_BYTES).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
}

fn generate() -> HeaderValue {
    let mut text = Uuid::encode_buffer();
    let id = Uuid::new_v4().hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static("none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_of_the_client_is_kept_if_it_is_short_and_printable() {
        let identified = |id: &[u8]| {
            let mut headers = HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_bytes(id).unwrap())]);
            let id = identify(&mut headers);
            assert_eq!(headers[REQUEST_ID], id, "the log of the request has the same");
            id
        };
        assert_eq!(identified(b"5f0c2a1e-id:1/2"), "5f0c2a1e-id:1/2");
        for invalid in [b"".as_slice(), b"a b", "\u{fc}".as_bytes(), &[b'x'; 129]] {
            let id = identified(invalid);
            assert!(id.as_bytes() != invalid && is_loggable(&id), "{id:?}");
        }
    }
}
