//! Free loopback ports.
//!
//! A port which the kernel assigns is from the range of outgoing connections, so it may be taken again before the
//! server binds it. Ports are therefore allocated below that range, in turn, from a counter in a file which all
//! processes of this user share: no port is allocated twice before all others were.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::{Context, Result, bail};

const FIRST: u16 = 20_000;
const LAST: u16 = 31_999;

/// Allocates a port on 127.0.0.1 on which nothing listens and which no other test of this user gets soon.
pub fn free() -> Result<u16> {
    let path = std::env::temp_dir().join(format!("couponry-ports-{}", rustix::process::getuid().as_raw()));
    let failed = || format!("cannot allocate a port from {}", path.display());
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
    bail!("all ports of {FIRST}..{LAST} are in use")
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

/// Runs `start`, and again with other ports if a port was taken between its allocation and its use.
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
