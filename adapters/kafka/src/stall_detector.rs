//! Detects that a consumer receives nothing although its partitions have messages.
//!
//! # Assumptions
//! A check runs only while the consumer waits and has no message in memory. A slow processing of messages is therefore
//! not a stall.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    blocking::blocking,
    client_log::ClientLog,
    error::{KafkaError, Operation},
    group::Positions,
    metadata::{self, require_topic},
};

/// Time between two checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Timeout of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// After this many checks without progress, the consumer has stalled.
const STALLED_CHECKS: u32 = 6;
/// The same for a consumer without partitions: other members of the group may be responsible for them.
const STALLED_CHECKS_UNASSIGNED: u32 = 24;
/// The factor of both limits doubles after each replacement of the client, up to this one, because a new client causes
/// a rebalance.
const MAX_LIMIT_FACTOR: u32 = 32;

/// For each partition with messages that were not received, the offset of the first one.
type Behind = BTreeMap<i32, i64>;

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing is to be received, or something was received since the last check.
    Ok,
    /// Not known yet.
    Unknown,
    /// Nothing was received from these partitions for too long. Reported once.
    Stalled(Vec<i32>),
}

pub(crate) struct StallDetector {
    /// A client of its own: the one that consumes may be stuck, and regard all brokers as unavailable.
    probe: Arc<BaseConsumer<ClientLog>>,
    topic: String,
    next: Instant,
    /// The check that is in progress.
    running: Option<JoinHandle<Result<Behind, KafkaError>>>,
    is_assigned: bool,
    checks: Checks,
}

impl StallDetector {
    pub(crate) fn new(probe: BaseConsumer<ClientLog>, topic: String) -> Self {
        let checks = Checks { behind: BTreeMap::new(), limit_factor: 1 };
        let next = Instant::now() + CHECK_INTERVAL;
        Self { probe: Arc::new(probe), topic, next, running: None, is_assigned: false, checks }
    }

    /// Begins again, for a new client.
    pub(crate) fn restart(&mut self) {
        self.running = None;
        self.next = Instant::now() + CHECK_INTERVAL;
        self.checks.behind.clear();
    }

    /// Whether the brokers respond to another client than the one that consumes.
    pub(crate) async fn is_kafka_available(&self) -> bool {
        let (probe, topic) = (self.probe.clone(), self.topic.clone());
        blocking(move || metadata::fetch(&probe, &topic, REQUEST_TIMEOUT)).await.is_ok()
    }

    /// Waits for the time of the next check and returns its result. Dropping the future cancels nothing.
    pub(crate) async fn check(&mut self, positions: impl Fn() -> Positions) -> Progress {
        if self.running.is_none() {
            tokio::time::sleep_until(self.next).await;
            let positions = positions();
            self.is_assigned = !positions.is_empty();
            let (probe, topic) = (self.probe.clone(), self.topic.clone());
            self.running = Some(tokio::spawn(blocking(move || find_behind(&probe, &topic, positions))));
        }
        let result = match &mut self.running {
            Some(running) => running.await,
            None => return Progress::Unknown,
        };
        self.running = None;
        self.next = Instant::now() + CHECK_INTERVAL;
        if let Ok(Ok(behind)) = result {
            self.checks.evaluate(behind, self.is_assigned)
        } else {
            // Unavailable brokers are reported by other checks.
            self.checks.behind.clear();
            Progress::Unknown
        }
    }
}

/// The results of the latest checks.
struct Checks {
    /// The partitions with messages that were not received, their positions, and the number of checks since these
    /// changed.
    behind: BTreeMap<i32, (i64, u32)>,
    limit_factor: u32,
}

impl Checks {
    fn evaluate(&mut self, behind: Behind, is_assigned: bool) -> Progress {
        let count = |(partition, position)| match self.behind.get(&partition) {
            Some((before, checks)) if *before == position => (partition, (position, checks + 1)),
            Some(_) => (partition, (position, 0)),
            None => (partition, (position, 1)),
        };
        self.behind = behind.into_iter().map(count).collect();
        let limit = self.limit_factor * if is_assigned { STALLED_CHECKS } else { STALLED_CHECKS_UNASSIGNED };
        let stalled: Vec<_> =
            self.behind.iter().filter(|(_, (_, checks))| *checks >= limit).map(|(partition, _)| *partition).collect();
        if !stalled.is_empty() {
            self.limit_factor = (self.limit_factor * 2).min(MAX_LIMIT_FACTOR);
            self.behind.clear();
            return Progress::Stalled(stalled);
        }
        if self.behind.values().all(|(_, checks)| *checks == 0) {
            self.limit_factor = 1;
            return Progress::Ok;
        }
        Progress::Unknown
    }
}

/// The partitions with messages that were not received. Without assigned partitions: those that the group has not
/// committed.
fn find_behind(probe: &BaseConsumer<ClientLog>, topic: &str, mut positions: Positions) -> Result<Behind, KafkaError> {
    let at = || KafkaError::at(Operation::MeasureLag);
    if positions.is_empty() {
        let metadata = metadata::fetch(probe, topic, REQUEST_TIMEOUT);
        let count = require_topic(topic, metadata, probe.context())?.len();
        positions = (0..i32::try_from(count).unwrap_or(i32::MAX)).map(|partition| (partition, None)).collect();
    }
    let mut unknown = TopicPartitionList::new();
    for (partition, _) in positions.iter().filter(|(_, position)| position.is_none()) {
        unknown.add_partition(topic, *partition);
    }
    if unknown.count() > 0 {
        for committed in probe.committed_offsets(unknown, REQUEST_TIMEOUT).map_err(at())?.elements() {
            if let Offset::Offset(offset) = committed.offset() {
                positions.insert(committed.partition(), Some(offset));
            }
        }
    }
    let mut behind = Behind::new();
    for (partition, position) in positions {
        let (low, high) = probe.fetch_watermarks(topic, partition, REQUEST_TIMEOUT).map_err(at())?;
        if let Some(position) = first_missing(position, low, high) {
            behind.insert(partition, position);
        }
    }
    Ok(behind)
}

/// The offset of the first message that was not received; None if all were received. A position after the end is not
/// one of this topic.
fn first_missing(position: Option<i64>, low: i64, high: i64) -> Option<i64> {
    let position = position.filter(|position| *position <= high).unwrap_or(low).max(low);
    (position < high).then_some(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_outside_of_the_offsets_starts_at_the_first_message() {
        assert_eq!(first_missing(None, 3, 10), Some(3));
        assert_eq!(first_missing(Some(1), 3, 10), Some(3));
        assert_eq!(first_missing(Some(9), 3, 10), Some(9));
        assert_eq!(first_missing(Some(10), 3, 10), None);
        assert_eq!(first_missing(Some(50), 3, 10), Some(3));
        assert_eq!(first_missing(Some(50), 0, 0), None);
    }

    #[test]
    fn partition_without_progress_is_stalled_after_the_limit() {
        let mut checks = Checks { behind: BTreeMap::new(), limit_factor: 1 };
        let mut evaluate = |positions: &[(i32, i64)]| checks.evaluate(positions.iter().copied().collect(), true);
        assert_eq!(evaluate(&[]), Progress::Ok);
        for _ in 1..STALLED_CHECKS {
            assert_eq!(evaluate(&[(0, 5), (1, 7)]), Progress::Unknown);
        }
        // Progress in one partition is not progress in the other one.
        assert_eq!(evaluate(&[(0, 6), (1, 7)]), Progress::Stalled(vec![1]));
        // The next client has twice as long, until there is progress.
        for _ in 1..2 * STALLED_CHECKS {
            assert_eq!(evaluate(&[(1, 7)]), Progress::Unknown);
        }
        assert_eq!(evaluate(&[(1, 7)]), Progress::Stalled(vec![1]));
        assert_eq!(evaluate(&[(1, 7)]), Progress::Unknown);
        assert_eq!(evaluate(&[(1, 8)]), Progress::Ok);
        assert_eq!(evaluate(&[]), Progress::Ok);
    }
}
