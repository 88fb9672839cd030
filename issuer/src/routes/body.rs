//! Reading the body of a request from a client that may be slow, wrong or hostile.

use std::{error::Error, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, Request, header},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tokio::time;

use crate::problem::Problem;

/// Far more than any request of ours has.
const MAX_BYTES: usize = 16 * 1024;
/// Time for a client to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads a JSON body.
pub(crate) async fn json<T: DeserializeOwned>(request: Request<Body>) -> Result<T, Problem> {
    if !is_json(request.headers()) {
        return Err(Problem::not_json("send the header `Content-Type: application/json`"));
    }
    let too_large = || Problem::too_large(format!("the body may have {MAX_BYTES} bytes"));
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: u64| length > MAX_BYTES as u64) {
        return Err(too_large());
    }
    let body = Limited::new(request.into_body(), MAX_BYTES).collect();
    let bytes = match time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if is_length_limit(&*error) => return Err(too_large()),
        Ok(Err(error)) => return Err(Problem::invalid(format!("cannot read the body: {error}"))),
        Err(_) => return Err(Problem::slow(format!("the body did not come within {BODY_TIMEOUT:?}"))),
    };
    serde_json::from_slice(&bytes).map_err(|error| Problem::invalid(error.to_string()))
}

/// Whether the limit was passed, said by the body itself or by a layer around it.
fn is_length_limit(error: &(dyn Error + 'static)) -> bool {
    error.is::<LengthLimitError>() || error.source().is_some_and(is_length_limit)
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
