//! Reads JSON request bodies, with limits on size and time.

use std::{fmt::Display, time::Duration};

use axum::{
    body::{Bytes, HttpBody},
    http::{HeaderMap, header},
};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::time;

use crate::problem::Problem;

/// Far larger than any valid request.
const MAX_BYTES: usize = 16 * 1024;
/// A larger body is not read to its end.
const MAX_DISCARDED: usize = 64 * 1024 * 1024;

/// Reads the JSON body of a request with these headers. The body must arrive within `timeout`.
pub async fn json<T, B>(headers: &HeaderMap, body: B, timeout: Duration) -> Result<T, Problem>
where
    T: DeserializeOwned,
    B: HttpBody<Data = Bytes, Error: Display> + Unpin,
{
    if !is_json(headers) {
        return Err(Problem::unsupported_media_type("the header `Content-Type: application/json` is required"));
    }
    if headers.get_all(header::CONTENT_ENCODING).iter().any(|coding| coding != "identity") {
        return Err(Problem::unsupported_media_type(
            "the body must not be compressed: `Content-Encoding` is not supported",
        ));
    }
    let bytes = match time::timeout(timeout, read(body)).await {
        Ok(Ok(Some(bytes))) => bytes,
        Ok(Ok(None)) => return Err(Problem::too_large(format!("the body must not be larger than {MAX_BYTES} bytes"))),
        Ok(Err(error)) => return Err(Problem::invalid(format!("cannot read the body: {error}"))),
        Err(_) => return Err(Problem::request_timeout(format!("the body was not received within {timeout:?}"))),
    };
    parse(&bytes).map_err(|error| Problem::invalid(format!("the body is not valid (see /openapi.json): {error}")))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match bytes.trim_ascii_start().first() {
        Some(b'{') => {}
        None => return Err("it is empty, expected an object".to_owned()),
        // Serde would also accept an array of the field values, which is not part of the API.
        Some(_) => return Err("expected an object".to_owned()),
    }
    // A failed parse is repeated to find the name of the field, so that valid requests do not pay for the path
    // tracking.
    serde_json::from_slice(bytes).map_err(|error| {
        let with_path = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_slice(bytes));
        with_path.err().map_or_else(|| error.to_string(), |with_path| with_path.to_string())
    })
}

/// The complete body, or None if it is too large. Most clients read the response only after they have sent the
/// complete body, so the rest of an oversized body is read and discarded, up to a limit.
async fn read<B: HttpBody<Data = Bytes> + Unpin>(mut body: B) -> Result<Option<Vec<u8>>, B::Error> {
    let (mut bytes, mut length) = (Vec::new(), 0);
    while !body.is_end_stream()
        && let Some(frame) = body.frame().await
    {
        let Ok(data) = frame?.into_data() else { continue };
        length += data.len();
        if length > MAX_DISCARDED {
            break;
        }
        if length <= MAX_BYTES {
            bytes.extend_from_slice(&data);
        }
    }
    Ok((length <= MAX_BYTES).then_some(bytes))
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let essence = value.split(';').next().unwrap_or_default().trim();
    let Some((kind, format)) = essence.split_once('/') else { return false };
    let is_json = format.eq_ignore_ascii_case("json")
        || format.get(format.len().saturating_sub(5)..).is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json"));
    kind.eq_ignore_ascii_case("application") && is_json
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn parse_of_invalid_field_names_the_field() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            #[expect(dead_code, reason = "it is only deserialized")]
            user_id: String,
        }
        let error = |body: &str| parse::<Body>(body.as_bytes()).unwrap_err();
        assert_eq!(error(""), "it is empty, expected an object");
        assert_eq!(error(" null"), "expected an object");
        assert_eq!(error("[1]"), "expected an object");
        assert_eq!(error("{}"), "missing field `userId` at line 1 column 2");
        let wrong = error(r#"{"userId": 1}"#);
        assert_eq!(wrong, "userId: invalid type: integer `1`, expected a string at line 1 column 12");
        assert!(error(r#"{"userId": "u"} x"#).contains("trailing characters"));
    }

    #[test]
    fn content_type_of_json_is_recognized() {
        let with = |value: &'static str| {
            is_json(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))]))
        };
        assert!(with("application/json"));
        assert!(with("Application/JSON; charset=utf-8"));
        assert!(with("application/cloudevents+json"));
        assert!(!with("text/plain"));
        assert!(!with("application/jsonp"));
        assert!(!is_json(&HeaderMap::new()));
    }
}
