//! The IP address of a client behind trusted proxies.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client that the outermost trusted proxy received the request from. Each proxy appends the address of its peer;
/// entries further to the left may be forged. None without trusted proxies, or if the entry is not an IP address.
pub(crate) fn client_ip(headers: &HeaderMap, trusted_proxies: u8) -> Option<IpAddr> {
    if trusted_proxies == 0 {
        return None;
    }
    // Read from the right, only as far as necessary: the header may be long. Read as bytes: an entry that is not
    // valid UTF-8 must not hide the entries that a proxy appended to it.
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let mut entries = lines.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    let entry = std::str::from_utf8(entries.nth(usize::from(trusted_proxies) - 1)?).ok()?.trim();
    // Some proxies append the port.
    entry.parse().or_else(|_| entry.parse().map(|address: SocketAddr| address.ip())).ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn client(lines: &[&[u8]], trusted_proxies: u8) -> Option<String> {
        let lines = lines.iter().map(|line| (FORWARDED_FOR, HeaderValue::from_bytes(line).unwrap()));
        client_ip(&lines.collect(), trusted_proxies).map(|address| address.to_string())
    }

    #[test]
    fn client_ip_is_the_entry_of_the_outermost_trusted_proxy() {
        let client = |proxies| client(&[b"9.9.9.9, 1.1.1.1", b"2001:db8::1 , 10.0.0.1"], proxies);
        assert_eq!(client(0), None);
        assert_eq!(client(1).as_deref(), Some("10.0.0.1"));
        assert_eq!(client(2).as_deref(), Some("2001:db8::1"));
        assert_eq!(client(5), None, "fewer entries than trusted proxies");
    }

    #[test]
    fn client_ip_may_have_a_port() {
        for (entry, address) in [
            ("1.2.3.4:567", Some("1.2.3.4")),
            ("[2001:db8::1]:567", Some("2001:db8::1")),
            ("unknown", None),
            ("", None),
        ] {
            assert_eq!(client(&[entry.as_bytes()], 1).as_deref(), address, "{entry}");
        }
    }

    #[test]
    fn client_ip_ignores_invalid_utf8_of_other_entries() {
        assert_eq!(client(&[b"\xe9, 1.2.3.4"], 1).as_deref(), Some("1.2.3.4"));
        assert_eq!(client(&[b"6.6.6.6", b"\xe9, 1.2.3.4"], 1).as_deref(), Some("1.2.3.4"));
        assert_eq!(client(&[b"6.6.6.6", b"\xe9, 1.2.3.4"], 2), None, "the invalid entry counts");
        assert_eq!(client(&[b"6.6.6.6, \xe9"], 1), None);
    }
}
