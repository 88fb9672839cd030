//! An API server whose responses are lost: the real one behind `kubectl proxy`, and before that a proxy that drops
//! responses on demand.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use couponry_testbed::{ports, process::Launch, process::Process, programs, scratch::Scratch};

/// Faults, which can be switched on and off.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// The watch of events is silent; its connection stays open.
    pub(crate) watch_is_silent: AtomicBool,
    /// Changes are applied, and the response is 504.
    pub(crate) changes_are_unconfirmed: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct FaultProxy {
    pub(crate) faults: Arc<Faults>,
    pub(crate) kubeconfig: PathBuf,
    _kubectl: Process,
    _scratch: Scratch,
}

impl FaultProxy {
    pub(crate) fn start(kubeconfig: &Path) -> Self {
        let (_, kubectl) = programs::require(programs::kubernetes(), "kubectl").unwrap();
        let scratch = Scratch::new("fault-proxy").unwrap();
        let upstream = ports::free().unwrap();
        let launch = Launch::new("kubectl", kubectl, scratch.path().join("kubectl.log"))
            .args(["--kubeconfig".as_ref(), kubeconfig.as_os_str()])
            .args(["proxy".to_owned(), format!("--port={upstream}")]);
        let kubectl = Process::start(launch).unwrap();
        kubectl.wait_ready(|| ports::accepts(upstream)).unwrap();

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let faults = Arc::<Faults>::default();
        std::thread::spawn({
            let faults = faults.clone();
            move || {
                for client in listener.incoming().map_while(Result::ok) {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)) else { continue };
                    forward(client, server, &faults);
                }
            }
        });
        let kubeconfig = scratch.path().join("kubeconfig");
        let contexts = "contexts: [{name: c, context: {cluster: c, user: u}}], current-context: c";
        let clusters =
            format!("clusters: [{{name: c, cluster: {{server: '{server}'}}}}], users: [{{name: u, user: {{}}}}]");
        std::fs::write(&kubeconfig, format!("{{apiVersion: v1, kind: Config, {clusters}, {contexts}}}")).unwrap();
        Self { faults, kubeconfig, _kubectl: kubectl, _scratch: scratch }
    }
}

/// The kind of the current request of a connection.
#[derive(Default)]
struct Current {
    is_watch: AtomicBool,
    is_change: AtomicBool,
}

fn forward(client: TcpStream, server: TcpStream, faults: &Arc<Faults>) {
    let current = Arc::<Current>::default();
    let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn({
        let current = current.clone();
        move || {
            copy(from_client, to_server, |chunk| {
                let line = String::from_utf8_lossy(&chunk[..chunk.len().min(1000)]).into_owned();
                let line = line.lines().next().unwrap_or_default();
                // A chunk that continues a request has no request line.
                if line.ends_with("HTTP/1.1") {
                    let is_watch = line.contains("/couponevents?") && line.contains("watch=true");
                    current.is_watch.store(is_watch, Ordering::Relaxed);
                    current.is_change.store(line.starts_with("PATCH "), Ordering::Relaxed);
                }
                Some(chunk.to_vec())
            });
        }
    });
    let faults = faults.clone();
    std::thread::spawn(move || {
        copy(server, client, |chunk| {
            if faults.watch_is_silent.load(Ordering::Relaxed) && current.is_watch.load(Ordering::Relaxed) {
                return Some(Vec::new());
            }
            if faults.changes_are_unconfirmed.load(Ordering::Relaxed) && current.is_change.load(Ordering::Relaxed) {
                return None;
            }
            Some(chunk.to_vec())
        });
    });
}

/// Copies what `transform` returns. For none, the response is 504, and the connection ends.
fn copy(mut from: TcpStream, mut to: TcpStream, transform: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        match transform(&buffer[..length]) {
            Some(bytes) if to.write_all(&bytes).is_ok() => {}
            Some(_) => break,
            None => {
                let _ = to.write_all(b"HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                break;
            }
        }
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}
