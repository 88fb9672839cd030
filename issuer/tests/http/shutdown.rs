//! A rolling restart behind a proxy, which reuses connections and notices the shutdown late.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time,
};

use crate::support::{World, until};

/// A persistent connection without retries: any failure fails the test.
struct Connection(BufReader<TcpStream>);

impl Connection {
    async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("an issuer listens");
        Self(BufReader::new(stream))
    }

    /// Sends an issue request. Returns whether the response closes the connection, and the head of the response.
    async fn issue(&mut self, user: &str) -> (bool, String) {
        let body = format!(r#"{{"userId":"{user}","eventId":"summer"}}"#);
        let head =
            "POST /coupons/issue HTTP/1.1\r\nHost: x\r\nX-Request-Id: id-7\r\nContent-Type: application/json\r\n";
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        self.0.write_all(request.as_bytes()).await.expect("the connection is open");
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let from = head.len();
            let read = self.0.read_line(&mut head).await.expect("a response");
            assert!(read > 0, "the connection was closed without a response: {head:?}");
            let line = head[from..].trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.expect("the complete body");
        (head.to_ascii_lowercase().contains("connection: close"), head)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restart_under_load_fails_no_request() {
    let world = World::shared().await.open(2000).await;
    let first = world.ready_issuer(&["--drain-seconds", "6"]).await;
    let second = world.ready_issuer(&[]).await;
    // `route`: the port to which the proxy opens new connections.
    let (route, done) = (Arc::new(AtomicU16::new(first.listen)), Arc::new(AtomicBool::new(false)));
    let (answered, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..24u64)
        .map(|client| {
            let (route, done, answered, closed) = (route.clone(), done.clone(), answered.clone(), closed.clone());
            tokio::spawn(async move {
                let mut idle = None;
                for request in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let mut connection = match idle.take() {
                        Some(connection) => connection,
                        None => Connection::connect(route.load(Ordering::Relaxed)).await,
                    };
                    let (is_last, _) = connection.issue(&format!("user-{client}-{request}")).await;
                    answered.fetch_add(1, Ordering::Relaxed);
                    if is_last {
                        closed.fetch_add(1, Ordering::Relaxed);
                    } else {
                        idle = Some(connection);
                    }
                    // Some clients send requests continuously, some leave their connection idle.
                    time::sleep(Duration::from_millis(client * 20)).await;
                }
            })
        })
        .collect();
    until("the load runs", async || answered.load(Ordering::Relaxed) > 500).await;

    let first = Arc::new(first);
    let stopped = tokio::task::spawn_blocking({
        let first = first.clone();
        move || first.running.stop().unwrap()
    });
    until("the first issuer is not ready", async || {
        first.readiness().await == (503, "this process: shutting down\n".to_owned())
    })
    .await;
    // The proxy notices a second later; until then it opens new connections as well.
    time::sleep(Duration::from_secs(1)).await;
    route.store(second.listen, Ordering::Relaxed);
    stopped.await.unwrap();
    let after = answered.load(Ordering::Relaxed);
    until("the second issuer serves all requests", async || answered.load(Ordering::Relaxed) > after + 200).await;
    done.store(true, Ordering::Relaxed);
    for client in future::join_all(clients).await {
        client.expect("no request fails");
    }
    assert!(closed.load(Ordering::Relaxed) >= 24, "each connection was closed");
    let log = first.running.log();
    assert!(log.contains("issuer stopped") && !log.contains("connections are aborted"), "{log}");
    println!("{} requests, none failed", answered.load(Ordering::Relaxed));
    world.wait_until_outbox_is_empty().await;
}

#[tokio::test]
async fn request_id_is_returned_and_logged() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&["--log", "info,requests=debug", "--trusted-proxies", "1"]).await;
    let (_, head) = Connection::connect(issuer.listen).await.issue("u1").await;
    assert!(head.to_ascii_lowercase().contains("x-request-id: id-7\r\n"), "{head}");
    let generated = issuer.issue("u2").await.headers["x-request-id"].clone();
    assert_ne!(generated, issuer.issue("u2").await.headers["x-request-id"]);
    let request =
        axum::http::Request::get("/").header("X-Request-Id", "lookup-9").header("X-Forwarded-For", "9.9.9.9, 1.2.3.4");
    assert_eq!(issuer.send(request, "/coupons/winter/users/u1", "").await.status, 404);
    until("the request is logged", async || issuer.running.log().contains("lookup-9")).await;
    let log = issuer.running.log();
    let line = log.lines().find(|line| line.contains("lookup-9")).unwrap();
    assert!(line.contains("1.2.3.4") && line.contains("404") && !line.contains("users/u1"), "{line}");
}

#[tokio::test]
async fn idle_connection_closes_after_keep_alive() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&["--keep-alive-seconds", "1"]).await;
    let mut connection = Connection::connect(issuer.listen).await;
    connection.issue("u1").await;
    assert_eq!(connection.0.read(&mut [0; 10]).await.unwrap(), 0);
}
