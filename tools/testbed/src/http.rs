//! A minimal HTTP client for the health checks of programs on this machine.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// Status code and body of `GET path` on this loopback port, or None without a response.
#[must_use]
pub fn get(port: u16, path: &str) -> Option<(u16, String)> {
    get_at((Ipv4Addr::LOCALHOST, port), path)
}

/// Status code and body of `POST path` with a JSON body on this loopback port, or None without a response.
#[must_use]
pub fn post(port: u16, path: &str, json: &str) -> Option<(u16, String)> {
    let headers = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", json.len());
    request((Ipv4Addr::LOCALHOST, port), &format!("POST {path}"), &headers, json)
}

/// Status code and body of `GET path` at this address, or None without a response.
#[must_use]
pub fn get_at(address: (Ipv4Addr, u16), path: &str) -> Option<(u16, String)> {
    request(address, &format!("GET {path}"), "", "")
}

fn request(address: (Ipv4Addr, u16), method_and_path: &str, headers: &str, body: &str) -> Option<(u16, String)> {
    let request =
        format!("{method_and_path} HTTP/1.1\r\nHost: {}\r\n{headers}Connection: close\r\n\r\n{body}", address.0);
    let response = exchange(address, &request).ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn exchange(address: (Ipv4Addr, u16), request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(request.as_bytes())?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn get_returns_status_and_body_or_none_without_server() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\nredis: refused\n").unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        assert_eq!(get(port, "/readyz"), Some((503, "redis: refused\n".to_owned())));
        assert!(server.join().unwrap().starts_with("GET /readyz HTTP/1.1\r\n"));
        assert_eq!(get(port, "/readyz"), None);
    }
}
