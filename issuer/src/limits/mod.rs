//! How often a user, and an address, may ask.
//!
//! # Guarantees
//! What is refused here has not been looked at: no coupon was given, and Redis was not asked. Each issuer counts for itself, in
//! memory (`docs/adr/0016-rate-limits.md`).
//!
//! # Caveats
//! A user who asks N issuers may ask N times as often. An issuer that starts has forgotten everyone.

mod flags;
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
use couponry_runtime::{CancellationToken, Problem};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::time;

pub(crate) use self::flags::LimitArgs;
use self::table::Table;
use crate::{metrics::Metrics, routes::request};

/// How often is forgotten what need not be remembered.
const INTERVAL: Duration = Duration::from_secs(1);

/// The limits that there are.
#[derive(Clone)]
pub(crate) struct Limits {
    user: Option<Arc<Limit>>,
    address: Option<Arc<Limit>>,
}

/// One limit, for everyone alike.
struct Limit<C: Clock = DefaultClock> {
    limiter: RateLimiter<u64, Table, C, NoOpMiddleware<C::Instant>>,
    hasher: RandomState,
    refused: Counter,
    keys: Gauge,
}

impl Limits {
    /// Begins to forget, if there is a limit.
    pub(crate) fn start(args: &LimitArgs, metrics: &Metrics, stop: &CancellationToken) -> Self {
        let limit = |by, quota: Option<Quota>| {
            let limit = Arc::new(Limit::new(quota?, DefaultClock::default(), metrics, by));
            tokio::spawn({
                let (limit, stop) = (limit.clone(), stop.clone());
                async move { stop.run_until_cancelled(limit.forget()).await }
            });
            Some(limit)
        };
        let user = limit("user", args.rate_limit_per_user.quota(args.rate_limit_per_user_burst));
        let address = limit("address", args.rate_limit_per_address.quota(args.rate_limit_per_address_burst));
        Self { user, address }
    }

    /// Whether it matters where a request comes from.
    pub(crate) fn by_address(&self) -> bool {
        self.address.is_some()
    }

    /// Counts a request of this user.
    pub(crate) fn user(&self, user: &UserId) -> Result<(), Problem> {
        self.user.as_ref().map_or(Ok(()), |limit| limit.count(user.as_str(), "this user asks too often"))
    }

    fn address(&self, address: IpAddr) -> Result<(), Problem> {
        let Some(limit) = &self.address else { return Ok(()) };
        limit.count(prefix(address), "too many requests come from your address")
    }
}

impl<C: Clock> Limit<C> {
    fn new(quota: Quota, clock: C, metrics: &Metrics, by: &'static str) -> Self {
        let (refused, keys) = metrics.limit(by);
        Self { limiter: RateLimiter::new(quota, Table::new(), clock), hasher: RandomState::new(), refused, keys }
    }

    fn count(&self, who: impl Hash, refusal: &str) -> Result<(), Problem> {
        // Two of a million share a number with a chance of one in 30 million, and nobody can choose to.
        self.limiter.check_key(&self.hasher.hash_one(who)).map_err(|until| {
            self.refused.inc();
            let wait = until.wait_time_from(self.limiter.clock().now());
            Problem::too_often(format!("{refusal}; nothing was done")).with_retry_after(wait)
        })
    }

    /// Forgets, again and again, everyone who has their whole burst.
    async fn forget(&self) {
        let mut round = time::interval(INTERVAL);
        loop {
            round.tick().await;
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
            self.keys.set(i64::try_from(self.limiter.len()).unwrap_or(i64::MAX));
        }
    }
}

/// Lets a request in unless too many come from its address. Before its body is read, and before anyone asks whose it is.
pub(crate) async fn by_address(
    State((limits, trusted_proxies)): State<(Limits, u8)>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    // Who comes past the proxies is known by their own address.
    let address = request::client(request.headers(), trusted_proxies).unwrap_or(peer.ip());
    match limits.address(address) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// What one household or one server has: it can take any address in it.
fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address @ IpAddr::V4(_) => address,
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
    fn who_waits_as_long_as_they_are_told_is_let_in() {
        let limit = limit(Duration::from_millis(2500), 3, FakeRelativeClock::default());
        let ask = |user| {
            limit.count(user, "x").map_err(|problem| {
                let response = problem.into_response();
                assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
                response.headers()[RETRY_AFTER].to_str().unwrap().parse::<u64>().unwrap()
            })
        };
        assert_eq!([ask("u1"), ask("u1"), ask("u1"), ask("u1")], [Ok(()), Ok(()), Ok(()), Err(3)]);
        assert_eq!(ask("u2"), Ok(()), "somebody else");
        assert_eq!(limit.refused.get(), 1);
        limit.limiter.clock().advance(Duration::from_secs(1));
        assert_eq!(ask("u1"), Err(2), "what was refused does not count");
        limit.limiter.clock().advance(Duration::from_secs(2));
        assert_eq!([ask("u1"), ask("u1")], [Ok(()), Err(2)]);
    }

    #[test]
    fn addresses_are_counted_as_they_are_given_out() {
        let prefix = |address: &str| prefix(address.parse().unwrap()).to_string();
        assert_eq!(prefix("192.0.2.7"), "192.0.2.7");
        assert_eq!(prefix("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(prefix("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(prefix("2001:db8:1:2:ffff::"), "2001:db8:1:2::");
    }

    /// What a limit costs: `cargo test --release -p couponry-issuer --bin couponry-issuer -- --ignored --nocapture cost_of_a_limit`.
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_a_limit() {
        const TURNS: u32 = 1_000_000;
        let users: Vec<UserId> = (0..TURNS).map(|i| format!("user-{i}").parse().unwrap()).collect();
        let measure = |what: &str, limits: &Limits, users: &[UserId]| {
            let start = Instant::now();
            for user in users.iter().cycle().take(TURNS as usize) {
                let _ = black_box(limits.user(black_box(user)));
            }
            println!("{what}: {:?} a request", start.elapsed() / TURNS);
        };
        let with = |burst| Limits {
            user: Some(Arc::new(limit(Duration::from_hours(1), burst, DefaultClock::default()))),
            address: None,
        };
        measure("off", &Limits { user: None, address: None }, &users);
        measure("on, one user", &with(1_000_000), &users[..1]);
        let many = with(2);
        measure("on, each user for the first time", &many, &users);
        measure("on, each user again", &many, &users);
        measure("on, each user refused", &many, &users[..500_000]);
        let start = Instant::now();
        many.user.as_ref().unwrap().limiter.retain_recent();
        println!("looking at a full table: {:?}", start.elapsed());
    }
}
