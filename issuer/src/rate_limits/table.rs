//! The state of each key of a rate limit, in bounded memory.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use governor::{
    nanos::Nanos,
    state::{StateStore, keyed::ShrinkableKeyedStateStore},
};

/// Shards with a lock each, so that the eviction of one does not block the others.
const SHARDS: usize = 64;
/// The capacity of a hash table with 16384 buckets. 64 shards hold 917504 keys in 18 MB.
const SHARD_CAPACITY: usize = 14_336;

/// The state of each key. A key is a hash that clients cannot compute.
///
/// A key without an entry has not used any of its burst. If a shard is full, a new key is accepted without an entry, so
/// that no client is rejected because of others.
pub(super) struct Table {
    shards: Box<[Mutex<HashMap<u64, Nanos>>]>,
    shard_capacity: usize,
}

impl Table {
    pub(super) fn new() -> Self {
        Self::with_shard_capacity(SHARD_CAPACITY)
    }

    fn with_shard_capacity(shard_capacity: usize) -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), shard_capacity }
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, HashMap<u64, Nanos>> {
        lock(&self.shards[usize::try_from(key % SHARDS as u64).unwrap_or_default()])
    }
}

fn lock(shard: &Mutex<HashMap<u64, Nanos>>) -> MutexGuard<'_, HashMap<u64, Nanos>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StateStore for Table {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.shard(*key);
        if let Some(state) = shard.get_mut(key) {
            let (allowed, next) = f(Some(*state))?;
            *state = next;
            return Ok(allowed);
        }
        let (allowed, next) = f(None)?;
        if shard.len() < self.shard_capacity {
            shard.insert(*key, next);
        }
        Ok(allowed)
    }
}

impl ShrinkableKeyedStateStore<u64> for Table {
    fn retain_recent(&self, drop_below: Nanos) {
        for shard in &self.shards {
            lock(shard).retain(|_, state| *state > drop_below);
        }
    }

    fn shrink_to_fit(&self) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            // A table that is only a little too large would soon grow again.
            if shard.capacity() > 64 && shard.len() < shard.capacity() / 4 {
                shard.shrink_to_fit();
            }
        }
    }

    fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| lock(shard).is_empty())
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
    fn full_table_accepts_new_keys_in_bounded_memory() {
        let limiter = limiter(Table::with_shard_capacity(100));
        let known = 7;
        while limiter.check_key(&known).is_ok() {}
        for key in 100..100_000 {
            assert!(limiter.check_key(&key).is_ok(), "{key}");
        }
        assert_eq!(limiter.len(), SHARDS * 100);
        assert!(limiter.check_key(&known).is_err(), "a known key keeps its state");
        let new_key = 1_000_000;
        assert!((0..10).all(|_| limiter.check_key(&new_key).is_ok()), "no room for a new key");

        // Keys with their full burst are evicted.
        limiter.clock().advance(Duration::from_millis(2001));
        limiter.retain_recent();
        assert_eq!(limiter.len(), 1, "the known key has used its full burst");
        assert!(limiter.check_key(&known).is_ok() && limiter.check_key(&known).is_ok());
        assert!(limiter.check_key(&known).is_err());
        limiter.clock().advance(Duration::from_secs(10));
        limiter.retain_recent();
        limiter.shrink_to_fit();
        assert!(limiter.is_empty());
        assert!(limiter.into_state_store().shards.iter().all(|shard| lock(shard).capacity() <= 64));
    }

    #[test]
    fn full_shard_has_16384_buckets() {
        let mut shard: HashMap<u64, Nanos> = HashMap::new();
        shard.extend((0..SHARD_CAPACITY as u64).map(|key| (key, Nanos::new(key))));
        assert_eq!(shard.capacity(), SHARD_CAPACITY);
        // A hash table has a control byte per bucket in addition to the entry.
        let bytes = SHARDS * 16_384 * (size_of::<(u64, Nanos)>() + 1);
        assert!(bytes < 18_000_000, "{bytes}");
    }
}
