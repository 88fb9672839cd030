//! How an event releases its coupons over time. It is fixed once the event has opened: users have received the times at
//! which they are admitted, and at which the next coupons become available.

use std::{fmt, str::FromStr};

/// How an event releases its coupons over time. By default all users are admitted and all coupons are available from
/// the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// From the start, users are admitted over this time ([`crate::admission`]).
    pub ramp_seconds: Option<u32>,
    /// The coupons that become available later.
    pub drops: Drops,
}

/// Parts of the stock that are held back until later, in the order of their times.
///
/// The text is stored in Postgres and Redis: `at:count,` for each of them. For example
/// `1796083200000:500,1796086800000:1000,`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops(Vec<StockDrop>);

/// Coupons that become available at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StockDrop {
    /// From when on they are available (milliseconds since the Unix epoch).
    pub at: i64,
    /// How many coupons.
    pub count: u64,
}

/// The drops cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDrops {
    /// The times are not in ascending order, or a count is 0.
    #[error("the drops are not in the order of their times, or the count of one is 0")]
    Order,
    /// The text is not of the stored form.
    #[error("invalid drops {0:?}")]
    Text(String),
}

impl Release {
    /// What differs, by the names in the manifest.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let Self { ramp_seconds, drops } = self;
        let differs = [("admission", *ramp_seconds != other.ramp_seconds), ("drops", *drops != other.drops)];
        differs.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }
}

impl Drops {
    /// The drops, if each is later than the one before it.
    pub fn new(drops: Vec<StockDrop>) -> Result<Self, InvalidDrops> {
        let is_ascending = drops.is_sorted_by(|one, next| one.at < next.at);
        let are_valid = is_ascending && drops.iter().all(|drop| drop.at >= 0 && drop.count > 0);
        if are_valid { Ok(Self(drops)) } else { Err(InvalidDrops::Order) }
    }

    /// Those that are not available yet at `now`. `issue.lua` applies the same rule.
    pub fn pending(&self, now: i64) -> impl Iterator<Item = &StockDrop> {
        self.0.iter().filter(move |drop| drop.at > now)
    }

    /// How many coupons are not released yet at `now`.
    #[must_use]
    pub fn held_back(&self, now: i64) -> u64 {
        self.pending(now).map(|drop| drop.count).sum()
    }

    /// When the next coupons become available, after `now`.
    #[must_use]
    pub fn next_at(&self, now: i64) -> Option<i64> {
        self.pending(now).next().map(|drop| drop.at)
    }
}

impl fmt::Display for Drops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|StockDrop { at, count }| write!(f, "{at}:{count},"))
    }
}

impl FromStr for Drops {
    type Err = InvalidDrops;

    fn from_str(text: &str) -> Result<Self, InvalidDrops> {
        let parse = |part: &str| {
            let (at, count) = part.strip_suffix(',')?.split_once(':')?;
            Some(StockDrop { at: at.parse().ok()?, count: count.parse().ok()? })
        };
        let drops: Option<_> = text.split_inclusive(',').map(parse).collect();
        // Only one text for the same drops: otherwise the operator would see a difference that is none.
        drops
            .and_then(|drops| Self::new(drops).ok())
            .filter(|drops| drops.to_string() == text)
            .ok_or_else(|| InvalidDrops::Text(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coupons_become_available_at_the_time_of_their_drop() {
        let drops: Drops = "100:5,200:7,".parse().unwrap();
        for (now, held_back, next_at) in
            [(0, 12, Some(100)), (99, 12, Some(100)), (100, 7, Some(200)), (199, 7, Some(200)), (200, 0, None)]
        {
            assert_eq!((drops.held_back(now), drops.next_at(now)), (held_back, next_at), "at {now}");
        }
        assert_eq!((Drops::default().held_back(0), Drops::default().next_at(0)), (0, None));
    }

    #[test]
    fn text_is_parsed_only_in_its_canonical_form() {
        for text in ["", "0:1,", "1796083200000:500,1796086800000:1000,"] {
            assert_eq!(text.parse::<Drops>().unwrap().to_string(), text);
        }
        for text in [
            ",", "1", "1:", ":1,", "1:1", "1:0,", "-1:1,", "1:-1,", "2:1,1:1,", "1:1,1:1,", " 1:1,", "1:1, ", "01:1,",
            "1:+1,", "1:1,2", "1:1;2:1,", "1.5:1,",
        ] {
            assert_eq!(text.parse::<Drops>(), Err(InvalidDrops::Text(text.to_owned())));
        }
        let unordered = vec![StockDrop { at: 2, count: 1 }, StockDrop { at: 1, count: 1 }];
        assert_eq!(Drops::new(unordered), Err(InvalidDrops::Order));
    }

    #[test]
    fn differences_have_the_names_of_the_manifest() {
        let release = Release { ramp_seconds: Some(1), drops: "1:1,".parse().unwrap() };
        assert!(release.differences(&release).is_empty());
        assert_eq!(release.differences(&Release::default()), ["admission", "drops"]);
    }
}
