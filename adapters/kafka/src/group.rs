//! The rebalances of a consumer group.

use std::sync::atomic::{AtomicU64, Ordering};

use rdkafka::{
    ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, ConsumerContext, Rebalance},
    error::KafkaError as RdKafkaError,
    topic_partition_list::TopicPartitionListElem,
};

use crate::client_log::ClientLog;

/// A member of a consumer group: counts its rebalances.
#[derive(Default)]
pub(crate) struct GroupMember {
    pub(crate) log: ClientLog,
    /// How often partitions were revoked or assigned. The protocol is eager: every rebalance concerns all partitions.
    rebalances: AtomicU64,
}

impl GroupMember {
    /// The number of rebalances so far.
    pub(crate) fn rebalances(&self) -> u64 {
        self.rebalances.load(Ordering::SeqCst)
    }
}

impl ClientContext for GroupMember {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.log(level, facility, message);
    }

    fn error(&self, error: RdKafkaError, reason: &str) {
        self.log.error(error, reason);
    }
}

impl ConsumerContext for GroupMember {
    // librdkafka calls it while a message is awaited, before it delivers the next one.
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, _: &Rebalance<'_>) {
        self.rebalances.fetch_add(1, Ordering::SeqCst);
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let partitions = |list: &TopicPartitionList| {
            list.elements().iter().map(TopicPartitionListElem::partition).collect::<Vec<_>>()
        };
        match rebalance {
            Rebalance::Assign(list) => tracing::info!(partitions = ?partitions(list), "partitions assigned"),
            Rebalance::Revoke(list) => tracing::info!(partitions = ?partitions(list), "partitions revoked"),
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance failed"),
        }
    }
}
