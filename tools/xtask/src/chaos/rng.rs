//! Random numbers from a seed (`SplitMix64`). Unlike those of libraries, they are the same in every version.

use std::time::Duration;

#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, inclusive.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// A duration from `low` to `high` seconds, in steps of 0.1 s.
    pub(super) fn seconds(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(100 * self.between(10 * low, 10 * high))
    }

    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let last = from.len() as u64 - 1;
        &from[usize::try_from(self.between(0, last)).unwrap_or(0)]
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, usize::try_from(self.between(0, last as u64)).unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn numbers_with_same_seed_are_identical_and_in_range() {
        let draw = |seed| (0..100).scan(Rng::new(seed), |rng, _| Some(rng.between(2, 5))).collect::<Vec<_>>();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        for n in 2..=5 {
            assert!(draw(1).contains(&n), "{n}");
        }
        let mut order: Vec<u64> = (0..10).collect();
        Rng::new(3).shuffle(&mut order);
        assert_ne!(order, (0..10).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..10).collect::<Vec<_>>());
    }
}
