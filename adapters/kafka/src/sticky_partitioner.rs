//! The choice of a partition for records that are sent together.

use std::{
    sync::atomic::{AtomicI32, Ordering},
    time::{Duration, Instant},
};

use crate::settings::LINGER;

/// Selects one partition for as long as a record lingers, and then the next one. Records that are sent at the same time
/// share their requests, and the load is spread evenly over all partitions.
pub(crate) struct StickyPartitioner {
    /// 0: unknown; librdkafka then selects the partition.
    partitions: AtomicI32,
    start: Instant,
}

impl StickyPartitioner {
    pub(crate) fn new() -> Self {
        Self { partitions: AtomicI32::new(0), start: Instant::now() }
    }

    /// Sets the number of partitions.
    pub(crate) fn set_partitions(&self, partitions: usize) {
        self.partitions.store(i32::try_from(partitions).unwrap_or(i32::MAX), Ordering::Relaxed);
    }

    /// The current partition; None while the number of partitions is unknown.
    pub(crate) fn current(&self) -> Option<i32> {
        partition_after(self.start.elapsed(), self.partitions.load(Ordering::Relaxed))
    }
}

fn partition_after(elapsed: Duration, partitions: i32) -> Option<i32> {
    let turn = elapsed.as_millis() / LINGER.as_millis();
    i32::try_from(turn.checked_rem(u128::try_from(partitions).ok()?)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitioner_changes_partition_after_each_linger() {
        let turns = |partitions| (0..8).map(|n| partition_after(LINGER * n, partitions)).collect::<Vec<_>>();
        assert_eq!(turns(3), [0, 1, 2, 0, 1, 2, 0, 1].map(Some));
        assert_eq!(turns(1), [Some(0); 8]);
        assert_eq!(turns(0), [None; 8], "the number of partitions is unknown");
        assert_eq!(partition_after(LINGER / 2, 3), Some(0));
    }
}
