//! The limits of connections: idle clients do not lock out others.

use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time,
};

use crate::support::{World, until};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

/// A client that keeps its connection open.
struct Client(TcpStream);

impl Client {
    async fn connect(port: u16) -> Self {
        Self(TcpStream::connect(("127.0.0.1", port)).await.unwrap())
    }

    /// Connects, and sends one request.
    async fn served(port: u16) -> Self {
        let mut client = Self::connect(port).await;
        assert!(client.request().await.starts_with("HTTP/1.1 404 "));
        client
    }

    /// Sends a request that needs no server. Returns the response, or nothing if the connection is closed.
    async fn request(&mut self) -> String {
        let _ = self.0.write_all(GET).await;
        self.read().await
    }

    /// Begins a request whose body follows with [`Client::end_request`].
    async fn begin_request(&mut self) {
        let head = "POST /coupons/issue HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
        self.0.write_all(format!("{head}Expect: 100-continue\r\nContent-Length: 34\r\n\r\n").as_bytes()).await.unwrap();
        assert_eq!(self.read().await, "HTTP/1.1 100 Continue\r\n\r\n", "the request is in progress");
        self.0.write_all(b"{").await.unwrap();
    }

    /// Sends the rest of a request, and returns its response.
    async fn end_request(&mut self) -> String {
        self.0.write_all(br#""userId":"u1","eventId":"summer"}"#).await.unwrap();
        self.read().await
    }

    /// A response, which arrives as a whole, or nothing if the connection is closed.
    async fn read(&mut self) -> String {
        let mut response = vec![0; 4096];
        let read = time::timeout(Duration::from_mins(2), self.0.read(&mut response)).await;
        let length = read.expect("a response, or the end of the connection").unwrap_or_default();
        String::from_utf8(response[..length].to_vec()).unwrap()
    }
}

#[tokio::test]
async fn longest_idle_connection_is_closed_for_a_new_one() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&["--max-connections", "8"]).await;
    let mut idle = Vec::new();
    for _ in 0..8 {
        idle.push(Client::served(issuer.listen).await);
    }
    // The first one is used again, so the second one is the longest idle.
    assert!(idle[0].request().await.starts_with("HTTP/1.1 404 "));
    let mut new = Client::served(issuer.listen).await;
    assert_eq!(idle[1].read().await, "", "the connection is closed");
    for client in [&mut idle[0], &mut new] {
        assert!(client.request().await.starts_with("HTTP/1.1 404 "));
    }
    // A client that never sends a request is evicted as well.
    let silent = Client::connect(issuer.listen).await;
    for _ in 0..20 {
        Client::served(issuer.listen).await;
    }
    drop(silent);
    let metrics = issuer.metrics().await;
    let evicted = metrics.lines().find_map(|line| line.strip_prefix("couponry_issuer_connections_evicted_total "));
    assert!(evicted.unwrap().parse::<u32>().unwrap() >= 2, "{metrics}");
    assert!(issuer.running.log().contains("connection limit reached"));
    until("the closed connections are not counted", async || {
        let metrics = issuer.metrics().await;
        let open = metrics.lines().find_map(|line| line.strip_prefix("couponry_issuer_connections "));
        // Possibly none: on a slow machine, the idle connections are evicted before the others are seen to be closed.
        open.unwrap().parse::<u32>().unwrap() <= 8
    })
    .await;
    assert_eq!(issuer.readiness().await.0, 200);
}

#[tokio::test]
async fn connection_with_a_request_in_progress_is_not_evicted() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&["--max-connections", "4", "--body-timeout-seconds", "120"]).await;
    let mut busy = Vec::new();
    for _ in 0..4 {
        let mut client = Client::served(issuer.listen).await;
        client.begin_request().await;
        busy.push(client);
    }
    until("all connections are taken", async || issuer.metrics().await.contains("couponry_issuer_connections 4\n"))
        .await;
    // The new one waits until a response closes one of the others.
    let mut new = Client::connect(issuer.listen).await;
    new.0.write_all(GET).await.unwrap();
    until("the new connection waits", async || issuer.running.log().contains("connection limit reached")).await;
    let mut responses = Vec::new();
    for client in &mut busy {
        responses.push(client.end_request().await);
    }
    assert!(responses.iter().all(|response| response.starts_with("HTTP/1.1 200 ")), "{responses:?}");
    let closed: Vec<bool> = responses.iter().map(|response| response.contains("\r\nconnection: close\r\n")).collect();
    assert_eq!(closed, [true, false, false, false], "{responses:?}");
    assert!(new.read().await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn address_above_its_connection_limit_is_rejected() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&["--max-connections-per-address", "3"]).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::served(issuer.listen).await);
    }
    assert_eq!(Client::connect(issuer.listen).await.request().await, "", "the fourth one is closed");
    // Another client is not affected.
    let other = TcpSocket::new_v4().unwrap();
    other.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into()).unwrap();
    let mut other = Client(other.connect((Ipv4Addr::LOCALHOST, issuer.listen).into()).await.unwrap());
    assert!(other.request().await.starts_with("HTTP/1.1 404 "));
    assert!(issuer.metrics().await.contains("couponry_issuer_connections_rejected_total 1\n"));
    clients.pop();
    until("a closed connection makes room", async || {
        Client::connect(issuer.listen).await.request().await.starts_with("HTTP/1.1 404 ")
    })
    .await;
}
