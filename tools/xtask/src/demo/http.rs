//! Just enough HTTP to ask a program on this machine whether it is ready.

use std::io::{BufRead, BufReader, Result, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// The status code that `GET path` on this loopback port is answered with, or None when there is no answer.
pub(super) fn status(port: u16, path: &str) -> Option<u16> {
    let line = first_line(port, path).ok()?;
    line.split(' ').nth(1)?.parse().ok()
}

fn first_line(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::status;

    #[test]
    fn the_status_code_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        assert_eq!(status(port, "/readyz"), Some(503));
        assert!(server.join().unwrap().starts_with("GET /readyz HTTP/1.1\r\n"));
        assert_eq!(status(port, "/readyz"), None);
    }
}
