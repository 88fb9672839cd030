//! Flags that say how often somebody may ask.

use std::{num::NonZeroU32, str::FromStr, time::Duration};

use governor::Quota;

/// How often somebody may ask.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Rate limits")]
#[expect(clippy::struct_field_names, reason = "they are the names of the flags")]
pub(crate) struct LimitArgs {
    /// How many requests a second one user may send to this issuer in the long run; more are answered with 429. A part of one
    /// is possible: 0.1 is one in ten seconds. 0: any number. Each issuer counts for itself.
    #[arg(long, env, default_value = "0", value_name = "REQUESTS")]
    pub(super) rate_limit_per_user: Rate,
    /// How many requests one user may send at once, before the rate counts.
    #[arg(long, env, default_value_t = 10, value_name = "REQUESTS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) rate_limit_per_user_burst: u32,
    /// As --rate-limit-per-user, for one address: what --trusted-proxies make of X-Forwarded-For, or else who opened the
    /// connection. Of an IPv6 address the first 64 bits count. Many users can be behind one address: set it high.
    #[arg(long, env, default_value = "0", value_name = "REQUESTS")]
    pub(super) rate_limit_per_address: Rate,
    /// As --rate-limit-per-user-burst, for one address.
    #[arg(long, env, default_value_t = 100, value_name = "REQUESTS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) rate_limit_per_address_burst: u32,
}

/// Requests a second: the time that each takes, or None for any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate(Option<Duration>);

impl Rate {
    /// With this many at once. None: no limit.
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
        // What one in a thousand seconds may have at once must still fit into the clock.
        if !(0.001..=1_000_000.0).contains(&rate) {
            return Err("0, or 0.001 to 1000000");
        }
        Ok(Self(Some(Duration::from_secs_f64(1.0 / rate))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_from_text() {
        let period = |text: &str| text.parse::<Rate>().map(|Rate(period)| period);
        assert_eq!(period("0"), Ok(None));
        assert_eq!(period("0.0"), Ok(None));
        assert_eq!(period("5"), Ok(Some(Duration::from_millis(200))));
        assert_eq!(period("0.1"), Ok(Some(Duration::from_secs(10))));
        for bad in ["", "x", "-1", "0.0001", "1e9", "inf", "NaN", "1/s"] {
            assert!(period(bad).is_err(), "{bad}");
        }
        let quota = "0.001".parse::<Rate>().unwrap().quota(1_000_000).unwrap();
        assert_eq!(quota.burst_size_replenished_in(), Duration::from_secs(1_000_000_000), "it fits");
    }
}
