//! One kept HTTP connection. It reads of an answer only what is counted: other clients cost more than what is measured.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Answers of issuers have fewer.
const MAX_HEADERS: usize = 32;

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// This request gave a coupon.
    Issued,
    /// 200, but no new coupon.
    Refused,
    /// 503 with `Retry-After`.
    Unavailable,
    /// Anything else.
    Other,
}

/// A connection that is made when it is first needed, and again after it broke.
pub(crate) struct Line {
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Line {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, stream: None, buffer: Vec::with_capacity(1024) }
    }

    /// Connects, if it is not connected.
    pub(crate) async fn connect(&mut self) -> io::Result<&mut TcpStream> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            self.stream = Some(stream);
        }
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Sends the request and waits for its answer. After an error, or when it is dropped on the way, the next call connects anew.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.connect().await?;
        let Some(mut stream) = self.stream.take() else { return Err(io::ErrorKind::NotConnected.into()) };
        stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some((answer, keeps)) = read(&self.buffer)? {
                self.stream = keeps.then_some(stream);
                return Ok(answer);
            }
        }
    }
}

/// The answer, if all of it is there, and whether the connection stays.
fn read(bytes: &[u8]) -> io::Result<Option<(Answer, bool)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let httparse::Status::Complete(head) = parsed else { return Ok(None) };
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let length: usize = header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    let Some(body) = bytes.get(head..head + length) else { return Ok(None) };
    let answer = match response.code {
        Some(200) if body.starts_with(br#"{"success":true"#) => Answer::Issued,
        Some(200) => Answer::Refused,
        Some(503) if header("retry-after").is_some() => Answer::Unavailable,
        _ => Answer::Other,
    };
    Ok(Some((answer, !header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_when_all_of_it_is_there() {
        let answer = |head: &str, body: &str| {
            let text = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            for cut in 0..text.len() {
                assert_eq!(read(&text.as_bytes()[..cut]).unwrap(), None, "{cut} bytes of {text}");
            }
            read(text.as_bytes()).unwrap().unwrap()
        };
        assert_eq!(answer("200 OK", r#"{"success":true,"reason":null}"#), (Answer::Issued, true));
        assert_eq!(answer("200 OK", r#"{"success":false,"reason":"SOLD_OUT"}"#), (Answer::Refused, true));
        assert_eq!(answer("503 No\r\nRetry-After: 1\r\nConnection: close", "{}"), (Answer::Unavailable, false));
        assert_eq!(answer("503 No", "{}"), (Answer::Other, true), "nobody is told when to come back");
        assert_eq!(answer("404 Not Found", "{}"), (Answer::Other, true));
        assert!(read(b"SSH-2.0\r\n\r\n").is_err());
    }
}
