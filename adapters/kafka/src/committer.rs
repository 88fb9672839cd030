//! Committing the offsets of consumed batches.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _, StreamConsumer},
};

use crate::{
    batch::Batch,
    blocking::blocking,
    error::{KafkaError, Operation},
    group::{Commits, GroupMember},
};

/// How long a commit may take.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(15);

/// Commits offsets for a [`crate::Consumer`]. It does not keep the client alive: the client leaves its group when it is
/// replaced, also while offsets are not committed.
#[derive(Clone)]
pub struct Committer {
    topic: String,
    client: Weak<StreamConsumer<GroupMember>>,
    commits: Arc<Commits>,
    /// The rebalance after which the batch was consumed.
    rebalance: u64,
}

impl Committer {
    pub(crate) fn new(topic: String, client: &Arc<StreamConsumer<GroupMember>>, rebalance: u64) -> Self {
        Self { topic, client: Arc::downgrade(client), commits: client.context().commits.clone(), rebalance }
    }

    /// Commits the offsets after `batch`. See [`PendingCommit::run`].
    pub async fn commit(&self, batch: &Batch) -> Result<(), KafkaError> {
        self.clone().pending_commit(batch).run().await
    }

    /// The commit of the offsets after `batch`, to be repeated until it succeeds.
    #[must_use]
    pub fn pending_commit(self, batch: &Batch) -> PendingCommit {
        PendingCommit { offsets: batch.next_offsets(), committer: self }
    }

    /// Commits these offsets if the client satisfies the condition, and waits until the broker has acknowledged them.
    ///
    /// At most one commit of a client is in progress: a commit that timed out may still reach the broker, and must not
    /// do so after a later one.
    pub(crate) async fn commit_offsets(
        &self,
        offsets: BTreeMap<i32, i64>,
        condition: impl FnOnce(&GroupMember) -> bool + Send + 'static,
    ) -> Result<(), KafkaError> {
        let Self { topic, client, commits, rebalance: _ } = self.clone();
        let commit = async move {
            if couponry_failpoint::is_on("kafka.hung-commit") {
                std::future::pending::<()>().await;
            }
            let lock = commits.commit_lock.clone().lock_owned().await;
            blocking(move || {
                let _lock = lock;
                let Some(client) = client.upgrade() else { return Ok(()) };
                let mut list = TopicPartitionList::new();
                for (partition, offset) in offsets {
                    list.add_partition_offset(&topic, partition, Offset::Offset(offset))?;
                }
                let is_due = list.count() > 0 && condition(client.context());
                if is_due { client.commit(&list, CommitMode::Sync) } else { Ok(()) }
            })
            .await
        };
        let result = tokio::time::timeout(COMMIT_TIMEOUT, commit).await;
        self.commits.note(result.is_err());
        match result {
            Ok(result) => result.map_err(KafkaError::at(Operation::Commit)),
            Err(_) => Err(KafkaError::TimedOut(Operation::Commit)),
        }
    }
}

/// Offsets that the broker has not acknowledged yet.
#[derive(Debug)]
pub struct PendingCommit {
    committer: Committer,
    offsets: BTreeMap<i32, i64>,
}

impl PendingCommit {
    /// Adds a commit that was created later.
    pub fn merge(&mut self, later: Self) {
        let (old, new) = (&self.committer, &later.committer);
        if Weak::ptr_eq(&old.client, &new.client) && old.rebalance == new.rebalance {
            self.offsets.extend(later.offsets);
        } else {
            // The partitions were assigned again in between, and consumed from their committed offsets.
            *self = later;
        }
    }

    /// Commits the offsets, and waits until the broker has acknowledged them.
    ///
    /// It does nothing if a rebalance has happened since the batch was consumed: all partitions are then consumed again
    /// from their committed offsets, and the new owner may have committed further. Committed offsets must not move
    /// backwards.
    pub async fn run(&self) -> Result<(), KafkaError> {
        let rebalance = self.committer.rebalance;
        self.committer.commit_offsets(self.offsets.clone(), move |member| member.is_current(rebalance)).await
    }
}

impl std::fmt::Debug for Committer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committer").field("topic", &self.topic).finish_non_exhaustive()
    }
}
