//! The network between an API server and pods, without nodes: each pod is a program on this machine.
//!
//! The API server connects to pods, for `kubectl get --raw .../pods/NAME:PORT/proxy/...`, through a proxy on a Unix
//! socket, as it does in clusters whose control plane is in another network. This proxy forwards a connection to any
//! address to the same port on loopback.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};
use serde_json::json;

/// Longer than the head of any request of the API server.
const MAX_HEAD: u64 = 16 * 1024;

/// A running proxy. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct PodNetwork {
    socket: PathBuf,
    is_stopped: Arc<AtomicBool>,
}

impl PodNetwork {
    /// Starts the proxy on a socket in this directory.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let socket = dir.join("pods.sock");
        let listener = UnixListener::bind(&socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = is_stopped.clone();
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // A failed connection is reported by the API server.
                thread::spawn(move || forward(connection));
            }
        });
        Ok(Self { socket, is_stopped })
    }

    /// Writes the configuration of the API server, and returns its path.
    pub(crate) fn write_configuration(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join("egress.json");
        let connection = json!({"proxyProtocol": "HTTPConnect", "transport": {"uds": {"udsName": self.socket}}});
        let configuration = json!({
            "apiVersion": "apiserver.k8s.io/v1beta1",
            "kind": "EgressSelectorConfiguration",
            "egressSelections": [{"name": "cluster", "connection": connection}],
        });
        let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        serde_json::to_writer(file, &configuration).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for PodNetwork {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        // The listener returns only for a connection.
        let _ = UnixStream::connect(&self.socket);
    }
}

/// Serves one CONNECT request.
fn forward(mut client: UnixStream) -> io::Result<()> {
    let mut head = BufReader::new(client.try_clone()?.take(MAX_HEAD));
    let mut request = String::new();
    head.read_line(&mut request)?;
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    // CONNECT 192.0.2.1:9090 HTTP/1.1
    let port = request.split(' ').nth(1).and_then(|target| target.rsplit(':').next()?.parse::<u16>().ok());
    let server = port.map(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)));
    let Some(Ok(server)) = server else { return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n") };
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let mut server = server;
    io::copy(&mut server, &mut client)?;
    client.shutdown(Shutdown::Both)
}
