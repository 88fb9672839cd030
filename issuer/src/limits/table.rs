//! What is remembered of whom, in bounded memory.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use governor::{
    nanos::Nanos,
    state::{StateStore, keyed::ShrinkableKeyedStateStore},
};

/// Parts that are locked alone, so that forgetting in one keeps nobody waiting at another.
const PARTS: usize = 64;
/// What a hash table of 16384 places holds before it doubles. 64 of these are 917504 keys, in 18 MB.
const PART_CAPACITY: usize = 14_336;

/// When each key may ask again. A key is a hash that outsiders cannot compute.
///
/// A key that is not here has its whole burst left. One that finds no room is therefore let in, and not remembered: nobody is
/// refused because of what others do.
pub(super) struct Table {
    parts: Box<[Mutex<HashMap<u64, Nanos>>]>,
    part_capacity: usize,
}

impl Table {
    pub(super) fn new() -> Self {
        Self::of(PART_CAPACITY)
    }

    fn of(part_capacity: usize) -> Self {
        Self { parts: (0..PARTS).map(|_| Mutex::default()).collect(), part_capacity }
    }

    fn part(&self, key: u64) -> MutexGuard<'_, HashMap<u64, Nanos>> {
        lock(&self.parts[usize::try_from(key % PARTS as u64).unwrap_or_default()])
    }
}

fn lock(part: &Mutex<HashMap<u64, Nanos>>) -> MutexGuard<'_, HashMap<u64, Nanos>> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StateStore for Table {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut part = self.part(*key);
        if let Some(state) = part.get_mut(key) {
            let (allowed, next) = f(Some(*state))?;
            *state = next;
            return Ok(allowed);
        }
        let (allowed, next) = f(None)?;
        if part.len() < self.part_capacity {
            part.insert(*key, next);
        }
        Ok(allowed)
    }
}

impl ShrinkableKeyedStateStore<u64> for Table {
    fn retain_recent(&self, drop_below: Nanos) {
        for part in &self.parts {
            lock(part).retain(|_, state| *state > drop_below);
        }
    }

    fn shrink_to_fit(&self) {
        for part in &self.parts {
            let mut part = lock(part);
            // Not for a little: it would grow again at once.
            if part.capacity() > 64 && part.len() < part.capacity() / 4 {
                part.shrink_to_fit();
            }
        }
    }

    fn len(&self) -> usize {
        self.parts.iter().map(|part| lock(part).len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.parts.iter().all(|part| lock(part).is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use governor::{Quota, RateLimiter, clock::FakeRelativeClock, middleware::NoOpMiddleware};

    use super::*;

    type Limiter = RateLimiter<u64, Table, FakeRelativeClock, NoOpMiddleware<Nanos>>;

    fn limiter(table: Table) -> Limiter {
        let quota = Quota::per_second(NonZeroU32::MIN).allow_burst(NonZeroU32::new(3).unwrap());
        RateLimiter::new(quota, table, FakeRelativeClock::default())
    }

    #[test]
    fn a_flood_of_keys_takes_bounded_memory_and_refuses_no_newcomer() {
        let limiter = limiter(Table::of(100));
        let known = 7;
        while limiter.check_key(&known).is_ok() {}
        for key in 100..100_000 {
            assert!(limiter.check_key(&key).is_ok(), "{key}");
        }
        assert_eq!(limiter.len(), PARTS * 100);
        assert!(limiter.check_key(&known).is_err(), "who is remembered stays so");
        let newcomer = 1_000_000;
        assert!((0..10).all(|_| limiter.check_key(&newcomer).is_ok()), "there is no room to remember them");

        // What has its whole burst again is forgotten.
        limiter.clock().advance(Duration::from_millis(2001));
        limiter.retain_recent();
        assert_eq!(limiter.len(), 1, "who has asked for everything has not");
        assert!(limiter.check_key(&known).is_ok() && limiter.check_key(&known).is_ok());
        assert!(limiter.check_key(&known).is_err());
        limiter.clock().advance(Duration::from_secs(10));
        limiter.retain_recent();
        limiter.shrink_to_fit();
        assert!(limiter.is_empty());
        assert!(limiter.into_state_store().parts.iter().all(|part| lock(part).capacity() <= 64));
    }

    #[test]
    fn a_full_part_has_not_doubled() {
        let mut part: HashMap<u64, Nanos> = HashMap::new();
        part.extend((0..PART_CAPACITY as u64).map(|key| (key, Nanos::new(key))));
        assert_eq!(part.capacity(), PART_CAPACITY);
        // A hash table has a byte for each place beside the entry.
        let bytes = PARTS * 16_384 * (size_of::<(u64, Nanos)>() + 1);
        assert!(bytes < 18_000_000, "{bytes}");
    }
}
