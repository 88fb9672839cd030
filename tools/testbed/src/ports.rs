//! Free loopback ports.
//!
//! Asking the kernel for any port and closing it again is a race: the port comes from the range that every outgoing
//! connection draws from, and test programs run side by side. So ports come from below that range, in turn, from a
//! counter in a file that all processes of this user share: none is handed out a second time before all others were.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::{Context, Result, bail};

const FIRST: u16 = 20_000;
const LAST: u16 = 31_999;

/// A port on 127.0.0.1 that nothing listens on and that no other test of this user is given soon.
pub fn free() -> Result<u16> {
    let path = std::env::temp_dir().join(format!("couponry-ports-{}", rustix::process::getuid().as_raw()));
    let failed = || format!("cannot draw a port from {}", path.display());
    let mut counter =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).with_context(failed)?;
    counter.lock().with_context(failed)?;
    let mut last = read(&mut counter).with_context(failed)?;
    for _ in FIRST..=LAST {
        last = if (FIRST..LAST).contains(&last) { last + 1 } else { FIRST };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, last)).is_ok() {
            counter.rewind().and_then(|()| write!(counter, "{last:05}")).with_context(failed)?;
            return Ok(last);
        }
    }
    bail!("no port of {FIRST}..{LAST} is free")
}

fn read(counter: &mut File) -> std::io::Result<u16> {
    let mut text = String::new();
    counter.read_to_string(&mut text)?;
    Ok(text.trim().parse().unwrap_or(LAST))
}

/// Whether something accepts connections on this loopback port.
#[must_use]
pub fn accepts(port: u16) -> bool {
    accepts_at((Ipv4Addr::LOCALHOST, port))
}

/// Whether something accepts connections at this address.
pub(crate) fn accepts_at(address: (Ipv4Addr, u16)) -> bool {
    TcpStream::connect(address).is_ok()
}

/// Runs `start`, and again with other ports when a port was taken between its choice and its use.
pub(crate) fn retry<T>(start: impl Fn() -> Result<T>) -> Result<T> {
    let mut result = start();
    for _ in 0..2 {
        match &result {
            Err(e) if format!("{e:#}").to_lowercase().contains("address already in use") => result = start(),
            _ => break,
        }
    }
    result
}
