//! Reading the body of a request from a client that may be slow, wrong or hostile.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::time;

use crate::Problem;

/// Far more than any request of ours has.
const MAX_BYTES: usize = 16 * 1024;
/// A client that sends even more is cut off.
const MAX_DISCARDED: usize = 64 * 1024 * 1024;

/// Reads the JSON body of a request with these headers. It must be there within `timeout`.
pub async fn json<T: DeserializeOwned>(headers: &HeaderMap, body: Body, timeout: Duration) -> Result<T, Problem> {
    if !is_json(headers) {
        return Err(Problem::not_json("send the header `Content-Type: application/json`"));
    }
    let bytes = match time::timeout(timeout, read(body)).await {
        Ok(Ok(Some(bytes))) => bytes,
        Ok(Ok(None)) => return Err(Problem::too_large(format!("the body may have {MAX_BYTES} bytes"))),
        Ok(Err(error)) => return Err(Problem::invalid(format!("cannot read the body: {error}"))),
        Err(_) => return Err(Problem::slow(format!("the body did not come within {timeout:?}"))),
    };
    parse(&bytes).map_err(|error| Problem::invalid(format!("the body is not what /openapi.json asks for: {error}")))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match bytes.trim_ascii_start().first() {
        Some(b'{') => {}
        None => return Err("it is empty, expected an object".to_owned()),
        // Serde would take an array as the fields in their order; nobody was promised that.
        Some(_) => return Err("expected an object".to_owned()),
    }
    // Read again where it fails, to learn in which field: what is good does not pay for that.
    serde_json::from_slice(bytes).map_err(|error| {
        let again = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_slice(bytes));
        again.err().map_or_else(|| error.to_string(), |named| named.to_string())
    })
}

/// The whole body, or None when it is too large. Most clients look for an answer only when they have sent all, so what is
/// too much is read as well, and forgotten, up to a limit.
async fn read(mut body: Body) -> Result<Option<Vec<u8>>, axum::Error> {
    let (mut bytes, mut length) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
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
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_field_that_is_wrong_is_named() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            #[expect(dead_code, reason = "it is only read")]
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
    fn json_is_known_by_its_type() {
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
