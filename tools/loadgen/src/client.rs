//! One kept HTTP connection to one issuer, and what its answers mean.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::history::{Answer, Outcome, Problem};

/// No answer of the issuer is nearly as long, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Where an issuer listens: `http://host:port`, maybe with a path before `/coupons/issue`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    url: Arc<str>,
    authority: Arc<str>,
    address: Arc<str>,
    issue: Uri,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(url: &str) -> anyhow::Result<Self> {
        let url = url.trim_end_matches('/');
        let uri: Uri = url.parse()?;
        let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            anyhow::bail!("{url} is not of the form http://host:port");
        };
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        let issue = format!("{}/coupons/issue", uri.path().trim_end_matches('/')).parse()?;
        Ok(Self { url: url.into(), authority: authority.as_str().into(), address: address.into(), issue })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// The end of one request.
#[derive(Debug)]
pub struct Reply {
    /// What is known about it.
    pub outcome: Outcome,
    /// How long the issuer wants to be left alone.
    pub retry_after: Option<Duration>,
}

impl Reply {
    /// Whether asking again may give an answer. A bad request stays one.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match &self.outcome {
            Outcome::Ok(_) => true,
            Outcome::Unknown(_) => false,
            Outcome::Refused(problem) => {
                problem.status.is_some_and(|status| status != StatusCode::TOO_MANY_REQUESTS.as_u16())
            }
        }
    }
}

/// A connection to an issuer, made when it is first needed and again when it broke.
#[derive(Debug)]
pub struct Line {
    target: Target,
    sender: Option<SendRequest<Full<Bytes>>>,
}

enum Failure {
    /// Not a byte of the request left.
    Unsent(String),
    /// Some of it may have arrived.
    Sent(String),
}

impl Line {
    /// Does not connect yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { target, sender: None }
    }

    /// Where it leads.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Asks for a coupon, with this body, and waits for the answer until the deadline has passed.
    pub async fn issue(&mut self, body: Bytes, deadline: Duration) -> Reply {
        let until = Instant::now() + deadline;
        let (outcome, retry_after) = match self.exchange(body, until).await {
            Ok((status, headers, body)) => (meaning(status, &body), retry_after(&headers)),
            Err(Failure::Unsent(why)) => (Outcome::Refused(Problem { why, status: None }), None),
            Err(Failure::Sent(why)) => (Outcome::Unknown(Problem { why, status: None }), None),
        };
        Reply { outcome, retry_after }
    }

    async fn exchange(&mut self, body: Bytes, until: Instant) -> Result<(StatusCode, HeaderMap, Bytes), Failure> {
        loop {
            let kept = self.sender.take().filter(|sender| !sender.is_closed());
            let is_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect(until).await?,
            };
            let exchanged = timeout_at(until, async {
                let response = send(&mut sender, self.target.request(body.clone())).await?;
                receive(response).await
            });
            match exchanged.await {
                Ok(Ok(reply)) => {
                    self.sender = Some(sender);
                    return Ok(reply);
                }
                // The server had closed the kept connection: that says nothing about the server.
                Ok(Err(Failure::Unsent(_))) if is_kept => {}
                Ok(Err(failure)) => return Err(failure),
                Err(_) => return Err(Failure::Sent("no answer in time".into())),
            }
        }
    }

    async fn connect(&self, until: Instant) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let unsent = |why: &dyn fmt::Display| Failure::Unsent(format!("cannot connect: {why}"));
        let connected = timeout_at(until, async {
            let stream = TcpStream::connect(&*self.target.address).await.map_err(|e| unsent(&e))?;
            stream.set_nodelay(true).map_err(|e| unsent(&e))?;
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| unsent(&e))
        });
        let (sender, connection) = connected.await.map_err(|e| unsent(&e))??;
        // Its errors also reach the request that is under way.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}

impl Target {
    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        Request::post(self.issue.clone())
            .header(HOST, &*self.authority)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .expect("every part of the request was parsed before")
    }
}

async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<Response<hyper::body::Incoming>, Failure> {
    sender.ready().await.map_err(|e| Failure::Unsent(e.to_string()))?;
    sender.try_send_request(request).await.map_err(|mut e| {
        let why = e.error().to_string();
        if e.take_message().is_some() { Failure::Unsent(why) } else { Failure::Sent(why) }
    })
}

async fn receive(response: Response<hyper::body::Incoming>) -> Result<(StatusCode, HeaderMap, Bytes), Failure> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let body = body.map_err(|e| Failure::Sent(format!("the answer broke off: {e}")))?;
    Ok((head.status, head.headers, body.to_bytes()))
}

fn meaning(status: StatusCode, body: &[u8]) -> Outcome {
    let problem = |why| Problem { why, status: Some(status.as_u16()) };
    if status == StatusCode::OK {
        return match serde_json::from_slice::<Answer>(body) {
            Ok(answer) => Outcome::Ok(answer),
            Err(e) => Outcome::Unknown(problem(format!("unreadable answer: {e}"))),
        };
    }
    let text: String = String::from_utf8_lossy(body).chars().take(300).collect();
    if status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT {
        Outcome::Refused(problem(text))
    } else {
        Outcome::Unknown(problem(text))
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_plain_http_addresses() {
        let target: Target = "http://127.0.0.1:8080/".parse().unwrap();
        assert_eq!((target.to_string().as_str(), &*target.address), ("http://127.0.0.1:8080", "127.0.0.1:8080"));
        assert_eq!(target.issue, "/coupons/issue");
        let target: Target = "http://shop.example/promo".parse().unwrap();
        assert_eq!((&*target.address, target.issue.path()), ("shop.example:80", "/promo/coupons/issue"));
        for bad in ["https://a:1", "127.0.0.1:80", "http://", "", "ftp://x"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_bad_request_is_known_to_have_done_nothing() {
        let status = |code| meaning(StatusCode::from_u16(code).unwrap(), b"{}");
        for code in [400, 401, 404, 413, 415, 429] {
            assert!(matches!(status(code), Outcome::Refused(_)), "{code}");
        }
        for code in [200, 204, 302, 408, 500, 502, 503, 504] {
            assert!(matches!(status(code), Outcome::Unknown(_)), "{code}");
        }
    }
}
