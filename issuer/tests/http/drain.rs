//! A rolling restart behind a proxy: requests come over kept connections, and the proxy learns late who has ended.

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

/// A kept connection that repeats nothing: what breaks, breaks the test.
struct Line(BufReader<TcpStream>);

impl Line {
    async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("somebody listens");
        Self(BufReader::new(stream))
    }

    /// Asks for a coupon. Whether the issuer wants the connection to end, and the head of its answer.
    async fn ask(&mut self, user: &str) -> (bool, String) {
        let body = format!(r#"{{"userId":"{user}","eventId":"summer"}}"#);
        let head =
            "POST /coupons/issue HTTP/1.1\r\nHost: x\r\nX-Request-Id: id-7\r\nContent-Type: application/json\r\n";
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        self.0.write_all(request.as_bytes()).await.expect("the connection is there");
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let from = head.len();
            let read = self.0.read_line(&mut head).await.expect("an answer");
            assert!(read > 0, "the connection ended without an answer: {head:?}");
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
        self.0.read_exact(&mut body).await.expect("the whole answer");
        (head.to_ascii_lowercase().contains("connection: close"), head)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_under_load_fails_no_request() {
    let world = World::shared().await.open(2000).await;
    let first = world.ready_issuer(&["--drain-seconds", "6"]).await;
    let second = world.ready_issuer(&[]).await;
    // Where the proxy sends new connections to.
    let (route, over) = (Arc::new(AtomicU16::new(first.listen)), Arc::new(AtomicBool::new(false)));
    let (answered, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..24u64)
        .map(|client| {
            let (route, over, answered, closed) = (route.clone(), over.clone(), answered.clone(), closed.clone());
            tokio::spawn(async move {
                let mut line = None;
                for turn in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let mut kept = match line.take() {
                        Some(kept) => kept,
                        None => Line::connect(route.load(Ordering::Relaxed)).await,
                    };
                    let (wants_to_end, _) = kept.ask(&format!("user-{client}-{turn}")).await;
                    answered.fetch_add(1, Ordering::Relaxed);
                    if wants_to_end {
                        closed.fetch_add(1, Ordering::Relaxed);
                    } else {
                        line = Some(kept);
                    }
                    // Some ask all the time, some leave their connection alone for a while.
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
    // The proxy learns it a second later; until then new connections come as well.
    time::sleep(Duration::from_secs(1)).await;
    route.store(second.listen, Ordering::Relaxed);
    stopped.await.unwrap();
    let after = answered.load(Ordering::Relaxed);
    until("the second issuer serves all", async || answered.load(Ordering::Relaxed) > after + 200).await;
    over.store(true, Ordering::Relaxed);
    for client in future::join_all(clients).await {
        client.expect("no request failed");
    }
    assert!(closed.load(Ordering::Relaxed) >= 24, "each connection was sent away");
    let log = first.running.log();
    assert!(log.contains("the issuer ends") && !log.contains("are cut"), "{log}");
    println!("{} requests, none failed", answered.load(Ordering::Relaxed));
    world.outbox_is_empty().await;
}

#[tokio::test]
async fn requests_are_known_by_their_id() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&["--log", "info,requests=debug", "--trusted-proxies", "1"]).await;
    let (_, head) = Line::connect(issuer.listen).await.ask("u1").await;
    assert!(head.to_ascii_lowercase().contains("x-request-id: id-7\r\n"), "{head}");
    let fresh = issuer.issue("u2").await.headers["x-request-id"].clone();
    assert_ne!(fresh, issuer.issue("u2").await.headers["x-request-id"]);
    let request =
        axum::http::Request::get("/").header("X-Request-Id", "look-9").header("X-Forwarded-For", "9.9.9.9, 1.2.3.4");
    assert_eq!(issuer.send(request, "/coupons/winter/users/u1", "").await.status, 404);
    until("the log names it", async || issuer.running.log().contains("look-9")).await;
    let log = issuer.running.log();
    let line = log.lines().find(|line| line.contains("look-9")).unwrap();
    assert!(line.contains("1.2.3.4") && line.contains("404") && !line.contains("users/u1"), "{line}");
}

/// An unused connection ends when its time is over, and not before.
#[tokio::test]
async fn unused_connections_end_when_their_time_is_over() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&["--keep-alive-seconds", "1"]).await;
    let mut line = Line::connect(issuer.listen).await;
    line.ask("u1").await;
    assert_eq!(line.0.read(&mut [0; 10]).await.unwrap(), 0);
}
