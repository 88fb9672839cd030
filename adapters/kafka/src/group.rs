//! The membership of a client in a consumer group.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance},
    error::KafkaError as RdKafkaError,
    topic_partition_list::TopicPartitionListElem,
};
use tokio::sync::Notify;

use crate::client_log::ClientLog;

/// After this many commits in a row that timed out, about a minute, the client is replaced if the brokers respond. A
/// client that hangs may regard all brokers as unavailable for ever.
const MAX_COMMIT_TIMEOUTS: u32 = 4;

/// For each assigned partition the offset of the next message; None if none was received since the assignment.
pub(crate) type Positions = BTreeMap<i32, Option<i64>>;

/// The commits of a client.
#[derive(Default)]
pub(crate) struct Commits {
    /// Held during a commit.
    pub(crate) commit_lock: Arc<tokio::sync::Mutex<()>>,
    /// How many in a row have timed out.
    timeouts: AtomicU32,
}

impl Commits {
    pub(crate) fn note(&self, has_timed_out: bool) {
        if has_timed_out {
            self.timeouts.fetch_add(1, Ordering::SeqCst);
        } else {
            self.timeouts.store(0, Ordering::SeqCst);
        }
    }

    /// Whether a commit has hung for too long.
    pub(crate) fn are_hung(&self) -> bool {
        self.timeouts.load(Ordering::SeqCst) >= MAX_COMMIT_TIMEOUTS
    }
}

/// A member of a consumer group: counts its rebalances, and tracks its position in each partition.
#[derive(Default)]
pub(crate) struct GroupMember {
    pub(crate) log: ClientLog,
    /// How often partitions were revoked or assigned. The protocol is eager: every rebalance concerns all partitions.
    rebalances: AtomicU64,
    positions: Mutex<Positions>,
    /// Set when the client is replaced: it must not commit any more.
    is_fenced: AtomicBool,
    is_topic_recreated: AtomicBool,
    topic_recreated: Notify,
    pub(crate) commits: Arc<Commits>,
    /// Set by a failpoint: the partitions are paused, so the client receives nothing.
    is_paused: bool,
}

impl GroupMember {
    pub(crate) fn new() -> Self {
        Self { is_paused: couponry_failpoint::is_on("kafka.paused-consumer"), ..Self::default() }
    }

    /// The number of rebalances so far.
    pub(crate) fn rebalances(&self) -> u64 {
        self.rebalances.load(Ordering::SeqCst)
    }

    /// Whether the partitions are still assigned as they were after this rebalance.
    pub(crate) fn is_current(&self, rebalance: u64) -> bool {
        !self.is_fenced.load(Ordering::SeqCst) && self.rebalances() == rebalance
    }

    pub(crate) fn fence(&self) {
        self.is_fenced.store(true, Ordering::SeqCst);
    }

    /// Notes that this message was received.
    pub(crate) fn advance(&self, partition: i32, offset: i64) {
        if let Some(position) = self.lock().get_mut(&partition) {
            *position = Some(offset + 1);
        }
    }

    /// Moves the positions to those of librdkafka, and returns the ones that have changed. librdkafka passes the
    /// markers that end a transaction without delivering them.
    pub(crate) fn pass_markers(&self, of_client: &TopicPartitionList) -> BTreeMap<i32, i64> {
        let mut positions = self.lock();
        let mut passed = BTreeMap::new();
        for element in of_client.elements() {
            let (partition, Offset::Offset(offset)) = (element.partition(), element.offset()) else { continue };
            if let Some(position) = positions.get_mut(&partition)
                && position.is_none_or(|position| position < offset)
            {
                *position = Some(offset);
                passed.insert(partition, offset);
            }
        }
        passed
    }

    pub(crate) fn positions(&self) -> Positions {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Positions> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the topic was deleted and created again after this client had received its metadata.
    pub(crate) fn is_topic_recreated(&self) -> bool {
        self.is_topic_recreated.load(Ordering::SeqCst)
    }

    /// Waits until the topic is deleted and created again.
    pub(crate) async fn topic_recreated(&self) {
        while !self.is_topic_recreated() {
            self.topic_recreated.notified().await;
        }
    }
}

impl ClientContext for GroupMember {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            // Enabled for this message only. librdkafka keeps its positions in a topic that was created again, although
            // they are offsets of the deleted one, and reports the change nowhere else.
            RDKafkaLogLevel::Debug => {
                if has_changed_id(message) {
                    self.is_topic_recreated.store(true, Ordering::SeqCst);
                    self.topic_recreated.notify_one();
                }
            }
            level => self.log.log(level, facility, message),
        }
    }

    fn error(&self, error: RdKafkaError, reason: &str) {
        self.log.error(error, reason);
    }
}

/// Whether librdkafka reports with this message that a topic has another id than before. The first id that it receives
/// replaces the zero id.
fn has_changed_id(message: &str) -> bool {
    let Some((_, ids)) = message.split_once(" changed id from ") else { return false };
    let Some((old, _)) = ids.split_once(" to ") else { return false };
    old.bytes().any(|byte| byte != b'A')
}

impl ConsumerContext for GroupMember {
    // librdkafka calls it while a message is awaited, before it delivers the next one.
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        self.rebalances.fetch_add(1, Ordering::SeqCst);
        *self.lock() = match rebalance {
            Rebalance::Assign(list) => partitions(list).into_iter().map(|partition| (partition, None)).collect(),
            Rebalance::Revoke(_) | Rebalance::Error(_) => Positions::new(),
        };
    }

    fn post_rebalance(&self, client: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                tracing::info!(partitions = ?partitions(list), "partitions assigned");
                if self.is_paused {
                    let _ = client.pause(list);
                }
            }
            Rebalance::Revoke(list) => tracing::info!(partitions = ?partitions(list), "partitions revoked"),
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance failed"),
        }
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<i32> {
    list.elements().iter().map(TopicPartitionListElem::partition).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_topic_id_is_recognized_unless_it_is_the_first() {
        let message =
            |old: &str| format!("[thrd:main]: Topic coupon-issued changed id from {old} to 4zPo1W9XTrmDIDfVmHfGZg");
        assert!(has_changed_id(&message("dBC5t4gDQqyNfTzuaSqRYw")));
        assert!(!has_changed_id(&message("AAAAAAAAAAAAAAAAAAAAAA")));
        assert!(!has_changed_id("[thrd:main]: Topic coupon-issued [0] Leader 1 Epoch 0"));
    }
}
