//! A failover behind one address: the replaced master issues nothing.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use couponry_domain::{EventName, Gate, UserId, Uuid, Window, code::CouponCode};
use couponry_redis::{FencedWrite, IssueOutcome, MAX_REDIRECTION_DELAY, RedisStore};
use couponry_testbed::{Redis, redis::command};
use tokio::{io::copy_bidirectional, net, sync::Mutex, task::JoinHandle, time};

use crate::support::{coupons, gate_settings, mark_verified, users};

const TOTAL: u64 = 3000;

/// A master and its replica behind one address, which is redirected by a failover. Connections stay where they are.
struct World {
    master: Redis,
    replica: Redis,
    upstream: Arc<AtomicU16>,
    redis_store: RedisStore,
    id: EventName,
}

impl World {
    async fn start() -> Self {
        let (master, replica) = (Redis::start().unwrap(), Redis::start().unwrap());
        command(&replica.url(), &["REPLICAOF", "127.0.0.1", &master.port().to_string()]).unwrap();
        until("the replica follows", async || info(&replica).contains("master_link_status:up")).await;
        let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let upstream = Arc::new(AtomicU16::new(master.port()));
        tokio::spawn(forward(listener, upstream.clone()));

        let (redis_store, id, uid) =
            (RedisStore::connect(&url, "").unwrap(), "summer".parse().unwrap(), Uuid::new_v4());
        redis_store.prepare(&id, uid, 0).await.unwrap();
        mark_verified(&redis_store, &id).await;
        redis_store.load(&id, uid, 0, &coupons(0, TOTAL)).await.unwrap();
        redis_store.set_gate(&id, uid, &gate_settings(Gate::Open, Window::default(), TOTAL)).await.unwrap();
        let available = |redis| command(&Redis::url(redis), &["LLEN", &format!("couponQueue:{{{id}}}")]).unwrap();
        until("the replica has the event", async || available(&replica) == available(&master)).await;
        Self { master, replica, upstream, redis_store, id }
    }

    fn redirect(&self) {
        self.upstream.store(self.replica.port(), Ordering::SeqCst);
    }

    /// Starts clients that issue without a pause.
    fn load(&self) -> Load {
        let (issued, stop) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let clients = (0..8u64).map(|client| {
            let (redis_store, id, issued, stop) =
                (self.redis_store.clone(), self.id.clone(), issued.clone(), stop.clone());
            tokio::spawn(async move {
                for number in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let user = client * 1_000_000 + number;
                    if let Ok(Some(reply)) = redis_store.issue(&id, &users(user..user + 1)).await
                        && let IssueOutcome::Issued(coupon) = &reply.outcomes[0]
                    {
                        issued.lock().await.push((coupon.user_id.clone(), coupon.coupon.clone()));
                    }
                    time::sleep(Duration::from_millis(20)).await;
                }
            })
        });
        Load { clients: clients.collect(), issued: issued.clone(), stop: stop.clone() }
    }
}

struct Load {
    clients: Vec<JoinHandle<()>>,
    issued: Arc<Mutex<Vec<(UserId, CouponCode)>>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    async fn issued(&self) -> usize {
        self.issued.lock().await.len()
    }

    async fn wait_for_more(&self) {
        let before = self.issued().await;
        until("coupons are issued", async || self.issued().await > before + 50).await;
    }

    async fn finish(self) -> Vec<(UserId, CouponCode)> {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.await.unwrap();
        }
        std::mem::take(&mut *self.issued.lock().await)
    }
}

async fn forward(listener: net::TcpListener, upstream: Arc<AtomicU16>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let port = upstream.load(Ordering::SeqCst);
        tokio::spawn(async move {
            let mut server = net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let _ = copy_bidirectional(&mut client, &mut server).await;
        });
    }
}

fn info(redis: &Redis) -> String {
    command(&redis.url(), &["INFO", "replication"]).unwrap()
}

fn issued_in(redis: &Redis, id: &EventName) -> String {
    command(&redis.url(), &["HLEN", &format!("couponIssued:{{{id}}}")]).unwrap()
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !condition().await {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn planned_failover_under_load_issues_nothing_twice() {
    let world = World::start().await;
    let load = world.load();
    load.wait_for_more().await;
    let port = world.replica.port().to_string();
    command(&world.master.url(), &["FAILOVER", "TO", "127.0.0.1", &port]).unwrap();
    until("the replica is the master", async || info(&world.replica).contains("role:master")).await;
    until("the master is a replica", async || info(&world.master).contains("role:slave")).await;
    world.redirect();
    until("the stock reaches the new master", async || {
        world.redis_store.observe(&world.id).await.is_ok_and(|observed| !observed.unwrap().is_verified)
    })
    .await;
    mark_verified(&world.redis_store, &world.id).await;
    load.wait_for_more().await;
    let issued = load.finish().await;
    let mut holders = HashMap::new();
    for (user, coupon) in &issued {
        assert_eq!(holders.insert(coupon, user), None, "{coupon} was issued twice");
    }
    let users: Vec<_> = issued.iter().map(|(user, _)| user.clone()).collect();
    for (entry, (user, coupon)) in world.redis_store.issued_to(&world.id, &users).await.unwrap().iter().zip(&issued) {
        let entry = entry.as_ref().and_then(|entry| entry.as_ref().ok());
        assert_eq!(entry.map(|entry| &entry.issued.coupon), Some(coupon), "{user}");
    }
}

/// The master is cut off: it does not notice that it was replaced, and keeps its connections.
#[tokio::test]
async fn replaced_master_is_silent_after_redirection() {
    let world = World::start().await;
    let load = world.load();
    load.wait_for_more().await;
    command(&world.replica.url(), &["REPLICAOF", "NO", "ONE"]).unwrap();
    world.redirect();
    time::sleep(MAX_REDIRECTION_DELAY).await;
    let at_redirection = issued_in(&world.master, &world.id);
    until("the stock reaches the new master", async || {
        world.redis_store.observe(&world.id).await.is_ok_and(|observed| !observed.unwrap().is_verified)
    })
    .await;
    mark_verified(&world.redis_store, &world.id).await;
    load.wait_for_more().await;
    load.finish().await;
    assert_eq!(issued_in(&world.master, &world.id), at_redirection);
}

/// A demoted master keeps its replication id until it has found its own master.
#[tokio::test]
async fn demoted_writable_master_issues_nothing() {
    let world = World::start().await;
    command(&world.master.url(), &["CONFIG", "SET", "replica-read-only", "no"]).unwrap();
    command(&world.master.url(), &["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    let observed = world.redis_store.observe(&world.id).await.unwrap().unwrap();
    assert_eq!((observed.is_verified, observed.replication_id.as_str()), (false, ""));
    let marked = world.redis_store.mark_verified(&world.id, &observed, None).await.unwrap();
    assert_eq!(marked, FencedWrite::Stale, "it cannot be verified either");
    let reply = world.redis_store.issue(&world.id, &users(0..2)).await.unwrap().unwrap();
    assert_eq!(reply.outcomes, vec![IssueOutcome::Unverified; 2]);
}

/// A replica has the replication id of its master, and may lag.
#[tokio::test]
async fn lookup_on_a_replica_is_not_verified() {
    let world = World::start().await;
    let user: UserId = "u1".parse().unwrap();
    world.redis_store.issue(&world.id, std::slice::from_ref(&user)).await.unwrap();
    assert!(world.redis_store.lookup(&world.id, &user).await.unwrap().unwrap().is_verified);
    let replica = RedisStore::connect(&world.replica.url(), "").unwrap();
    until("the replica has the issuance", async || {
        replica.lookup(&world.id, &user).await.unwrap().unwrap().entry.is_some()
    })
    .await;
    assert!(!replica.lookup(&world.id, &user).await.unwrap().unwrap().is_verified);
}
