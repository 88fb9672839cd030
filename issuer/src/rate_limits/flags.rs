//! Flags of the rate limits.

use std::{num::NonZeroU32, str::FromStr, time::Duration};

use governor::Quota;

/// Flags of the rate limits.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Rate limits")]
#[expect(clippy::struct_field_names, reason = "the fields are named after the flags")]
pub(crate) struct RateLimitArgs {
    /// Sustained requests per second per user; more are rejected with 429. May be a fraction: 0.1 is one request in
    /// ten seconds. 0 disables the limit. Each issuer counts separately.
    #[arg(long, env, default_value = "0", value_name = "REQUESTS")]
    pub(super) rate_limit_per_user: Rate,
    /// Requests that one user may send in a burst.
    #[arg(
        long,
        env,
        default_value_t = 10,
        value_name = "REQUESTS",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    pub(super) rate_limit_per_user_burst: u32,
    /// Sustained requests per second per client address: the one in X-Forwarded-For with --trusted-proxies, otherwise
    /// the peer of the connection. IPv6 addresses are counted by their /64 prefix. Many users can share an address:
    /// choose a high limit.
    #[arg(long, env, default_value = "0", value_name = "REQUESTS")]
    pub(super) rate_limit_per_address: Rate,
    /// Requests that one address may send in a burst.
    #[arg(
        long,
        env,
        default_value_t = 100,
        value_name = "REQUESTS",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    pub(super) rate_limit_per_address_burst: u32,
}

/// A rate as the interval between requests, or None without a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate(Option<Duration>);

impl Rate {
    /// The quota with this burst, or None without a limit.
    pub(super) fn quota(self, burst: u32) -> Option<Quota> {
        Some(Quota::with_period(self.0?)?.allow_burst(NonZeroU32::new(burst)?))
    }
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rate: f64 = text.parse().map_err(|_| "not a number")?;
        if rate == 0.0 {
            return Ok(Self(None));
        }
        // The replenishment time of the largest burst must fit into the nanoseconds of the clock.
        if !(0.001..=1_000_000.0).contains(&rate) {
            return Err("must be 0, or between 0.001 and 1000000");
        }
        Ok(Self(Some(Duration::from_secs_f64(1.0 / rate))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_parsed_as_requests_per_second() {
        let period = |text: &str| text.parse::<Rate>().map(|Rate(period)| period);
        assert_eq!(period("0"), Ok(None));
        assert_eq!(period("0.0"), Ok(None));
        assert_eq!(period("5"), Ok(Some(Duration::from_millis(200))));
        assert_eq!(period("0.1"), Ok(Some(Duration::from_secs(10))));
        for invalid in ["", "x", "-1", "0.0001", "1e9", "inf", "NaN", "1/s"] {
            assert!(period(invalid).is_err(), "{invalid}");
        }
        let quota = "0.001".parse::<Rate>().unwrap().quota(1_000_000).unwrap();
        assert_eq!(quota.burst_size_replenished_in(), Duration::from_secs(1_000_000_000), "the largest burst fits");
    }
}
