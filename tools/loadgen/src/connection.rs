//! A kept HTTP/1.1 connection to one issuer or redeemer. It parses only what the load generator needs: every CPU cycle
//! of the client is missing for the programs under test, which often share its machine.

use std::fmt::{self, Display};
use std::io::{self, ErrorKind, Write as _};
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use http::Uri;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const MAX_HEADERS: usize = 64;
/// Longer responses are errors.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// The base URL of an issuer or a redeemer: `http://host:port`, optionally with a path prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    url: Arc<str>,
    authority: Arc<str>,
    address: Arc<str>,
    path: Arc<str>,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(url: &str) -> Result<Self> {
        let url = url.trim_end_matches('/');
        let uri: Uri = url.parse()?;
        let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            bail!("{url} is not of the form http://host:port");
        };
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        let path = uri.path().trim_end_matches('/').into();
        Ok(Self { url: url.into(), authority: authority.as_str().into(), address: address.into(), path })
    }
}

impl Target {
    /// A request with a JSON body, which may be empty, and these header lines.
    #[must_use]
    pub fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> Vec<u8> {
        let (prefix, host, length) = (&self.path, &self.authority, body.len());
        format!(
            "{method} {prefix}{path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n{headers}\
             content-length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// Writes the issue requests of numbered users. The parts of the body which are the same for all users are encoded
/// once.
#[derive(Debug)]
pub struct RequestTemplate {
    before_number: String,
    after_number: String,
}

impl RequestTemplate {
    /// Requests for `event` by users whose names are `user_prefix` and a number.
    #[must_use]
    pub fn new(user_prefix: &str, event: &str) -> Self {
        let (prefix, event) = (serde_json::json!(user_prefix).to_string(), serde_json::json!(event));
        let before_number = format!(r#"{{"userId":{}"#, &prefix[..prefix.len() - 1]);
        Self { before_number, after_number: format!(r#"","eventId":{event}}}"#) }
    }

    /// Replaces `request` with the request of one user.
    ///
    /// # Panics
    /// Never: writing to memory does not fail.
    pub fn write(&self, target: &Target, user_number: u64, request: &mut Vec<u8>) {
        let Self { before_number, after_number } = self;
        let user_number = user_number.to_string();
        let length = before_number.len() + user_number.len() + after_number.len();
        request.clear();
        write!(
            request,
            "POST {}/coupons/issue HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n\
             {before_number}{user_number}{after_number}",
            target.path, target.authority
        )
        .expect("writing to memory does not fail");
    }
}

/// Why an exchange failed.
#[derive(Debug)]
pub enum ExchangeError {
    /// No byte of the request was sent.
    NotSent(io::Error),
    /// The server may have received the request.
    NoResponse(io::Error),
}

/// A complete response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The header `Retry-After`.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: &'a [u8],
}

/// A connection which is opened on first use, and again after an error.
#[derive(Debug)]
pub struct Connection {
    target: Target,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Connection {
    /// A connection which is not open yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { target, stream: None, buffer: Vec::with_capacity(1024) }
    }

    /// The server.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Opens the connection, unless it is open.
    pub async fn connect(&mut self) -> io::Result<()> {
        if !self.stream.as_ref().is_some_and(is_open) {
            let stream = TcpStream::connect(&*self.target.address).await?;
            stream.set_nodelay(true)?;
            self.stream = Some(stream);
        }
        Ok(())
    }

    /// Sends a request and receives the response. After an error, or if the future is dropped, the next call
    /// reconnects.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Response<'_>, ExchangeError> {
        let mut is_kept = self.stream.is_some();
        let mut stream = loop {
            self.connect().await.map_err(ExchangeError::NotSent)?;
            let Some(mut stream) = self.stream.take() else { continue };
            match send(&mut stream, request).await {
                Ok(()) => break stream,
                // A server may close an idle connection at any time.
                Err(ExchangeError::NotSent(_)) if is_kept => is_kept = false,
                Err(error) => return Err(error),
            }
        };
        self.buffer.clear();
        let head = receive(&mut stream, &mut self.buffer).await.map_err(ExchangeError::NoResponse)?;
        self.stream = head.is_keep_alive.then_some(stream);
        Ok(Response { status: head.status, retry_after: head.retry_after, body: &self.buffer[head.body] })
    }
}

/// Whether the server has not closed the connection, as far as it is known without a system call.
fn is_open(stream: &TcpStream) -> bool {
    stream.try_read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

async fn send(stream: &mut TcpStream, request: &[u8]) -> Result<(), ExchangeError> {
    let sent = stream.write(request).await.map_err(ExchangeError::NotSent)?;
    stream.write_all(&request[sent..]).await.map_err(ExchangeError::NoResponse)
}

struct Head {
    status: u16,
    retry_after: Option<Duration>,
    body: Range<usize>,
    is_keep_alive: bool,
}

async fn receive(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Head> {
    loop {
        let is_end = stream.read_buf(buffer).await? == 0;
        if let Some(head) = parse(buffer, is_end)? {
            return Ok(head);
        }
        if is_end {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if buffer.len() > MAX_RESPONSE_BYTES {
            return Err(io::Error::new(ErrorKind::InvalidData, "the response is too long"));
        }
    }
}

/// Parses a response. `None`: it is incomplete.
fn parse(buffer: &mut Vec<u8>, is_end: bool) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(start) = response.parse(buffer).map_err(invalid)? else { return Ok(None) };
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok().map(str::trim)
    };
    let has = |name: &str, value: &str| header(name).is_some_and(|found| found.eq_ignore_ascii_case(value));
    let is_chunked = has("transfer-encoding", "chunked");
    let length = header("content-length").and_then(|value| value.parse::<usize>().ok());
    let mut head = Head {
        status: response.code.unwrap_or_default(),
        retry_after: header("retry-after").and_then(|value| value.parse().ok()).map(Duration::from_secs),
        body: start..buffer.len(),
        is_keep_alive: response.version == Some(1) && !has("connection", "close"),
    };
    if is_chunked {
        // The decoded body is appended. Trailers may follow, so the connection is not used again.
        let Some(body) = decode_chunks(&buffer[start..])? else { return Ok(None) };
        head.body = buffer.len()..buffer.len() + body.len();
        head.is_keep_alive = false;
        buffer.extend(body);
    } else if let Some(length) = length {
        head.body = start..start.saturating_add(length);
        if buffer.len() < head.body.end {
            return Ok(None);
        }
    } else if !matches!(head.status, 204 | 304) {
        // The body ends with the connection.
        head.is_keep_alive = false;
        if !is_end {
            return Ok(None);
        }
    }
    Ok(Some(head))
}

/// The body of a chunked response. `None`: it is incomplete.
fn decode_chunks(mut chunks: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let size = httparse::parse_chunk_size(chunks);
        let size =
            size.map_err(|_| io::Error::new(ErrorKind::InvalidData, "the response has an invalid chunk size"))?;
        let httparse::Status::Complete((start, length)) = size else { return Ok(None) };
        if length == 0 {
            return Ok(Some(body));
        }
        let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        let Some(chunk) = chunks.get(start..end) else { return Ok(None) };
        body.extend_from_slice(chunk);
        // CRLF follows each chunk.
        let Some(rest) = chunks.get(end + 2..) else { return Ok(None) };
        chunks = rest;
    }
}

fn invalid(error: httparse::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_is_plain_http_url() {
        let target: Target = "http://127.0.0.1:8080/".parse().unwrap();
        assert_eq!((target.to_string().as_str(), &*target.address), ("http://127.0.0.1:8080", "127.0.0.1:8080"));
        assert_eq!(&*target.path, "");
        let target: Target = "http://shop.example/promo".parse().unwrap();
        assert_eq!((&*target.address, &*target.path), ("shop.example:80", "/promo"));
        for bad in ["https://a:1", "127.0.0.1:80", "http://", "", "ftp://x"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn request_template_escapes_names() {
        let mut request = Vec::new();
        let target = "http://127.0.0.1:8080".parse().unwrap();
        RequestTemplate::new("\"한-", "summer").write(&target, 7, &mut request);
        let request = String::from_utf8(request).unwrap();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, r#"{"userId":"\"한-7","eventId":"summer"}"#);
        assert!(head.starts_with("POST /coupons/issue HTTP/1.1\r\nhost: 127.0.0.1:8080\r\n"), "{head}");
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
    }

    /// Status, `Retry-After` in seconds, body, and whether the connection is kept.
    type Parsed = (u16, Option<u64>, String, bool);

    fn parsed(text: &str, is_end: bool) -> Option<Parsed> {
        let mut buffer = text.as_bytes().to_vec();
        let Head { status, retry_after, body, is_keep_alive } = parse(&mut buffer, is_end).unwrap()?;
        let body = String::from_utf8(buffer[body].to_vec()).unwrap();
        Some((status, retry_after.map(|delay| delay.as_secs()), body, is_keep_alive))
    }

    #[test]
    fn response_is_parsed_when_complete() {
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", (200, None, "{}", true)),
            (
                "HTTP/1.1 503 No\r\nRetry-After: 1\r\nConnection: close\r\ncontent-length: 1\r\n\r\nx",
                (503, Some(1), "x", false),
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
                (200, None, "{}", false),
            ),
            ("HTTP/1.0 404 Not Found\r\ncontent-length: 0\r\n\r\n", (404, None, "", false)),
            ("HTTP/1.1 204 No Content\r\n\r\n", (204, None, "", true)),
        ] {
            let complete = text.len() - if text.contains("chunked") { 2 } else { 0 };
            for end in 0..complete {
                assert_eq!(parsed(&text[..end], false), None, "{end} bytes of {text}");
            }
            let (status, retry_after, body, is_keep_alive) = expected;
            assert_eq!(parsed(text, false), Some((status, retry_after, body.to_owned(), is_keep_alive)));
        }
        let unbounded = "HTTP/1.1 502 Bad\r\n\r\nsorry";
        assert_eq!(parsed(unbounded, false), None);
        assert_eq!(parsed(unbounded, true), Some((502, None, "sorry".to_owned(), false)));
        assert!(parse(&mut b"SSH-2.0\r\n\r\n".to_vec(), false).is_err());
    }
}
