//! Sends issue requests and decides what is known about each: answered, rejected, or unknown.

use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, timeout_at};

use crate::connection::{Connection, ExchangeError, Response};
use crate::outcome::{Failure, IssueResponse, Outcome};

/// The result of one attempt.
#[derive(Debug)]
pub struct Reply {
    /// What is known about the attempt.
    pub outcome: Outcome,
    /// The delay which the issuer asked for.
    pub retry_after: Option<Duration>,
}

impl Reply {
    /// Whether a retry cannot change the result: the request was answered, or is invalid.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match &self.outcome {
            Outcome::Answered(_) => true,
            Outcome::Unknown(_) => false,
            Outcome::Rejected(failure) => {
                failure.status.is_some_and(|status| status != StatusCode::TOO_MANY_REQUESTS.as_u16())
            }
        }
    }
}

/// Sends a request and waits for the response until the timeout.
pub async fn issue(connection: &mut Connection, request: &[u8], timeout: Duration) -> Reply {
    let deadline = Instant::now() + timeout;
    let failed = |message: String| Failure { message, status: None };
    let rejected = |message: String| Reply { outcome: Outcome::Rejected(failed(message)), retry_after: None };
    let unknown = |message: String| Reply { outcome: Outcome::Unknown(failed(message)), retry_after: None };
    match timeout_at(deadline, connection.connect()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return rejected(format!("cannot connect: {error}")),
        Err(_) => return rejected("cannot connect: timeout".to_owned()),
    }
    match timeout_at(deadline, connection.exchange(request)).await {
        Ok(Ok(response)) => Reply { outcome: interpret(&response), retry_after: response.retry_after },
        Ok(Err(ExchangeError::NotSent(error))) => rejected(format!("cannot connect: {error}")),
        Ok(Err(ExchangeError::NoResponse(error))) => unknown(format!("no response: {error}")),
        Err(_) => unknown("no response: timeout".to_owned()),
    }
}

fn interpret(Response { status, body, .. }: &Response<'_>) -> Outcome {
    let failure = |message| Failure { message, status: Some(*status) };
    if *status == 200 {
        return match serde_json::from_slice::<IssueResponse>(body) {
            Ok(response) => Outcome::Answered(response),
            Err(error) => Outcome::Unknown(failure(format!("invalid response: {error}"))),
        };
    }
    let text: String = String::from_utf8_lossy(body).chars().take(300).collect();
    match status {
        400..=407 | 409..=499 => Outcome::Rejected(failure(text)),
        _ => Outcome::Unknown(failure(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_client_errors_are_rejected() {
        let outcome = |status| interpret(&Response { status, retry_after: None, body: b"{}" });
        for status in [400, 401, 404, 413, 415, 429] {
            assert!(matches!(outcome(status), Outcome::Rejected(_)), "{status}");
        }
        for status in [200, 204, 302, 408, 500, 502, 503, 504] {
            assert!(matches!(outcome(status), Outcome::Unknown(_)), "{status}");
        }
    }
}
