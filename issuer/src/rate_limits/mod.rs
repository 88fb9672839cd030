//! Rate limits per user and per address.
//!
//! # Guarantees
//! A rejected request is not processed: no coupon is issued, and Redis is not called.
//!
//! # Caveats
//! Each issuer counts separately and in memory (`docs/adr/0016-rate-limits.md`): a user who sends requests to N
//! issuers has N times the limit, and a restart resets the counts.

pub(crate) mod flags;
mod table;

use std::{
    hash::{BuildHasher, Hash, RandomState},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use couponry_domain::UserId;
use couponry_runtime::{CancellationToken, http::address_block, problem::Problem};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::time;

use self::{flags::RateLimitArgs, table::Table};
use crate::{client_ip::client_ip, metrics::Metrics};

/// Interval at which idle keys are removed.
const EVICTION_INTERVAL: Duration = Duration::from_secs(1);

/// The enabled limits.
#[derive(Clone)]
pub(crate) struct RateLimits {
    user: Option<Arc<Limit>>,
    address: Option<Arc<Limit>>,
}

/// One limit, the same for all keys.
struct Limit<C: Clock = DefaultClock> {
    limiter: RateLimiter<u64, Table, C, NoOpMiddleware<C::Instant>>,
    hasher: RandomState,
    rejected: Counter,
    keys: Gauge,
}

impl RateLimits {
    /// Starts the eviction of each enabled limit.
    pub(crate) fn start(args: &RateLimitArgs, metrics: &Metrics, stop: &CancellationToken) -> Self {
        let limit = |by, quota: Option<Quota>| {
            let limit = Arc::new(Limit::new(quota?, DefaultClock::default(), metrics, by));
            tokio::spawn({
                let (limit, stop) = (limit.clone(), stop.clone());
                async move { stop.run_until_cancelled(limit.evict()).await }
            });
            Some(limit)
        };
        let user = limit("user", args.rate_limit_per_user.quota(args.rate_limit_per_user_burst));
        let address = limit("address", args.rate_limit_per_address.quota(args.rate_limit_per_address_burst));
        Self { user, address }
    }

    /// Whether addresses are limited.
    pub(crate) fn limits_addresses(&self) -> bool {
        self.address.is_some()
    }

    /// Counts a request of this user.
    pub(crate) fn check_user(&self, user: &UserId) -> Result<(), Problem> {
        self.user.as_ref().map_or(Ok(()), |limit| limit.check(user.as_str(), "too many requests from this user"))
    }

    fn check_address(&self, address: IpAddr) -> Result<(), Problem> {
        let Some(limit) = &self.address else { return Ok(()) };
        limit.check(address_block(address), "too many requests from this address")
    }
}

impl<C: Clock> Limit<C> {
    fn new(quota: Quota, clock: C, metrics: &Metrics, by: &'static str) -> Self {
        let (rejected, keys) = metrics.rate_limit(by);
        Self { limiter: RateLimiter::new(quota, Table::new(), clock), hasher: RandomState::new(), rejected, keys }
    }

    fn check(&self, key: impl Hash, detail: &str) -> Result<(), Problem> {
        // Among a million keys the probability of a collision is one in 30 million, and clients cannot provoke one.
        self.limiter.check_key(&self.hasher.hash_one(key)).map_err(|until| {
            self.rejected.inc();
            let wait = until.wait_time_from(self.limiter.clock().now());
            Problem::too_many_requests(format!("{detail}; the request was not processed")).with_retry_after(wait)
        })
    }

    /// Removes the keys that have their full burst, periodically.
    async fn evict(&self) {
        let mut interval = time::interval(EVICTION_INTERVAL);
        loop {
            interval.tick().await;
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
            self.keys.set(i64::try_from(self.limiter.len()).unwrap_or(i64::MAX));
        }
    }
}

/// Rejects a request above the limit of its address, before its body is read and its user is authenticated.
pub(crate) async fn limit_address(
    State((limits, trusted_proxies)): State<(RateLimits, u8)>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    // A client that bypasses the proxies is limited by its own address.
    let address = client_ip(request.headers(), trusted_proxies).unwrap_or(peer.ip());
    match limits.check_address(address) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::{hint::black_box, num::NonZeroU32, time::Instant};

    use axum::http::{StatusCode, header::RETRY_AFTER};
    use governor::clock::FakeRelativeClock;
    use prometheus_client::registry::Registry;

    use super::*;

    fn limit<C: Clock>(period: Duration, burst: u32, clock: C) -> Limit<C> {
        let quota = Quota::with_period(period).unwrap().allow_burst(NonZeroU32::new(burst).unwrap());
        Limit::new(quota, clock, &Metrics::register(&mut Registry::default()), "user")
    }

    #[test]
    fn rejected_request_is_accepted_after_retry_after() {
        let limit = limit(Duration::from_millis(2500), 3, FakeRelativeClock::default());
        let check = |user| {
            limit.check(user, "x").map_err(|problem| {
                let response = problem.into_response();
                assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
                response.headers()[RETRY_AFTER].to_str().unwrap().parse::<u64>().unwrap()
            })
        };
        let rejected = |check: Result<(), u64>, expected: std::ops::RangeInclusive<u64>| {
            assert!(check.is_err_and(|seconds| expected.contains(&seconds)), "{check:?}, expected {expected:?}");
        };
        assert_eq!([check("u1"), check("u1"), check("u1")], [Ok(()); 3]);
        rejected(check("u1"), 3..=4);
        assert_eq!(check("u2"), Ok(()), "another user");
        assert_eq!(limit.rejected.get(), 1);
        limit.limiter.clock().advance(Duration::from_secs(1));
        rejected(check("u1"), 2..=2);
        limit.limiter.clock().advance(Duration::from_millis(1500));
        assert_eq!(check("u1"), Ok(()), "rejected requests do not count");
        rejected(check("u1"), 3..=4);
    }

    /// The cost of a limit: `cargo test --release -p couponry-issuer --lib -- --ignored --nocapture cost_of_a_limit`.
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_a_limit() {
        const TURNS: u32 = 1_000_000;
        let users: Vec<UserId> = (0..TURNS).map(|i| format!("user-{i}").parse().unwrap()).collect();
        let measure = |what: &str, limits: &RateLimits, users: &[UserId]| {
            let start = Instant::now();
            for user in users.iter().cycle().take(TURNS as usize) {
                let _ = black_box(limits.check_user(black_box(user)));
            }
            println!("{what}: {:?} per request", start.elapsed() / TURNS);
        };
        let with = |burst| RateLimits {
            user: Some(Arc::new(limit(Duration::from_hours(1), burst, DefaultClock::default()))),
            address: None,
        };
        measure("off", &RateLimits { user: None, address: None }, &users);
        measure("on, one user", &with(1_000_000), &users[..1]);
        let many = with(2);
        measure("on, first request of each user", &many, &users);
        measure("on, second request of each user", &many, &users);
        measure("on, rejected request of each user", &many, &users[..500_000]);
        let start = Instant::now();
        many.user.as_ref().unwrap().limiter.retain_recent();
        println!("eviction of a full table: {:?}", start.elapsed());
    }
}
