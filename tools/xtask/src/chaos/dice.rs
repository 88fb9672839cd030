//! Random numbers that follow from a seed, the same in every version (`SplitMix64`).

use std::time::Duration;

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub(super) fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.any() % (high - low + 1)
    }

    /// A time from `low` to `high` seconds, to the tenth.
    pub(super) fn seconds(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(100 * self.between(10 * low, 10 * high))
    }

    /// One of these.
    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let last = from.len() as u64 - 1;
        &from[usize::try_from(self.between(0, last)).unwrap_or(0)]
    }

    /// Brings them into any order.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, usize::try_from(self.between(0, last as u64)).unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Dice;

    #[test]
    fn the_seed_decides_everything_and_everything_can_come() {
        let draw = |seed| (0..100).scan(Dice::new(seed), |dice, _| Some(dice.between(2, 5))).collect::<Vec<_>>();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        for n in 2..=5 {
            assert!(draw(1).contains(&n), "{n}");
        }
        let mut order: Vec<u64> = (0..10).collect();
        Dice::new(3).shuffle(&mut order);
        assert_ne!(order, (0..10).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..10).collect::<Vec<_>>());
    }
}
