//! Consuming issued records in batches.
//!
//! # Guarantees
//! - Offsets are committed only by [`Consumer::commit`] and [`Committer::commit`], and never move backwards.
//! - Dropping a future of [`Consumer::next_batch`] loses no record.
//!
//! # Caveats
//! Delivery is at-least-once: after a rebalance or a restart, uncommitted records are delivered again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use couponry_settings::KafkaSettings;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    config::FromClientConfigAndContext as _,
    consumer::{CommitMode, Consumer as _, StreamConsumer},
    error::KafkaError as RdKafkaError,
};
use tokio::time::Instant;

use crate::{
    blocking::blocking,
    error::{KafkaError, Operation},
    group::GroupMember,
    message::Message,
    metadata::require_topic,
    settings,
};

/// How long a commit may take. After that the batch is delivered again.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(15);

/// Messages that were consumed together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The messages; those of one partition are in order.
    pub messages: Vec<Message>,
}

impl Batch {
    /// For each partition, the offset after its last message.
    fn next_offsets(&self) -> BTreeMap<i32, i64> {
        let mut offsets = BTreeMap::new();
        for message in &self.messages {
            let next = offsets.entry(message.partition).or_insert(0);
            *next = (*next).max(message.offset + 1);
        }
        offsets
    }
}

/// Consumes issued records as a member of a consumer group.
pub struct Consumer {
    config: ClientConfig,
    topic: String,
    /// None only while the consumer is dropped.
    inner: Option<Arc<StreamConsumer<GroupMember>>>,
    /// Messages of the next batch.
    pending: Vec<Message>,
    /// The rebalance after which the pending messages were received.
    rebalance: u64,
}

impl Consumer {
    /// Connects in the background. Fails only if the settings are invalid.
    pub fn new(settings: &KafkaSettings, group: &str) -> Result<Self, KafkaError> {
        let mut config = settings::client(settings)?;
        config
            .set("group.id", group)
            .set("group.protocol", "classic")
            // The partitions of a killed consumer are reassigned after this time.
            .set("session.timeout.ms", "10000")
            .set("heartbeat.interval.ms", "2000")
            // While Postgres is unavailable, the consumer holds a batch and polls nothing.
            .set("max.poll.interval.ms", "600000")
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // At most twenty fetches per second, unless there is more data than this: one fetch per produce request
            // would cost the broker too much.
            .set("fetch.min.bytes", "65536")
            .set("fetch.wait.max.ms", "50")
            // Bounds the memory for records that are fetched ahead of the database.
            .set("queued.max.messages.kbytes", "16384");
        let inner = Some(subscribe(&config, &settings.topic)?);
        Ok(Self { config, topic: settings.topic.clone(), inner, pending: Vec::new(), rebalance: 0 })
    }

    fn inner(&self) -> &Arc<StreamConsumer<GroupMember>> {
        self.inner.as_ref().expect("is present until the drop")
    }

    /// Waits for the first message without a limit, and then at most `linger` for more; returns at most `max` messages.
    ///
    /// After an error, call it again: librdkafka recovers by itself, and a consumer that failed fatally is replaced.
    /// Dropping the future loses nothing.
    pub async fn next_batch(&mut self, max: usize, linger: Duration) -> Result<Batch, KafkaError> {
        let mut deadline = (!self.pending.is_empty()).then(|| Instant::now() + linger);
        while self.pending.len() < max {
            let consumer = self.inner().clone();
            let received = match deadline {
                None => consumer.recv().await,
                Some(deadline) => match tokio::time::timeout_at(deadline, consumer.recv()).await {
                    Ok(received) => received,
                    Err(_) => break,
                },
            };
            match received {
                Ok(message) => {
                    let rebalance = consumer.context().rebalances();
                    if self.rebalance != rebalance {
                        // The pending messages are delivered again from the committed offset, to this member or
                        // another.
                        self.pending.clear();
                        self.rebalance = rebalance;
                    }
                    self.pending.push(Message::from(&message));
                    deadline.get_or_insert_with(|| Instant::now() + linger);
                }
                // The received messages can be processed; if the error persists, the next call returns it.
                Err(_) if !self.pending.is_empty() => break,
                Err(cause) => return Err(self.recover(cause)),
            }
        }
        Ok(Batch { messages: std::mem::take(&mut self.pending) })
    }

    /// Replaces the consumer after a fatal error, and returns the error.
    fn recover(&mut self, cause: RdKafkaError) -> KafkaError {
        let error = KafkaError::at(Operation::Consume)(cause);
        if error.is_fatal() {
            let fatal: &dyn std::error::Error = &error;
            match subscribe(&self.config, &self.topic) {
                Ok(new) => {
                    tracing::error!(error = fatal, "recreated Kafka consumer after a fatal error");
                    if let Some(old) = self.inner.replace(new) {
                        leave_group(old);
                    }
                }
                Err(failure) => {
                    let failure: &dyn std::error::Error = &failure;
                    tracing::error!(error = failure, fatal, "cannot recreate Kafka consumer after a fatal error");
                }
            }
        }
        error
    }

    /// See [`Committer::commit`].
    pub async fn commit(&self, batch: &Batch) -> Result<(), KafkaError> {
        self.committer().commit(batch).await
    }

    /// Commits the current batch while the next one is consumed.
    #[must_use]
    pub fn committer(&self) -> Committer {
        Committer { topic: self.topic.clone(), consumer: self.inner().clone(), rebalance: self.rebalance }
    }

    /// Fails if no broker responds within `timeout`, or if the topic does not exist.
    pub async fn ping(&self, timeout: Duration) -> Result<(), KafkaError> {
        let (consumer, topic) = (self.inner().clone(), self.topic.clone());
        let log = consumer.context().log.clone();
        let metadata = blocking(move || consumer.fetch_metadata(Some(&topic), timeout)).await;
        require_topic(&self.topic, metadata, &log)?;
        Ok(())
    }

    /// Leaves the group, so that its partitions are reassigned immediately. After `deadline` it returns anyway, and the
    /// partitions are reassigned when the session times out.
    pub async fn close(mut self, deadline: Duration) {
        if let Some(inner) = self.inner.take() {
            let _ = tokio::time::timeout(deadline, leave_group(inner)).await;
        }
    }
}

/// Commits offsets for a [`Consumer`]. The consumer cannot leave its group before every committer is dropped.
pub struct Committer {
    topic: String,
    consumer: Arc<StreamConsumer<GroupMember>>,
    rebalance: u64,
}

impl Committer {
    /// Commits the offsets after `batch`, and waits until the broker has acknowledged them.
    ///
    /// It does nothing if a rebalance has happened since the batch was consumed: all partitions are then consumed again
    /// from their committed offsets, and the new owner may have committed further. Committed offsets must not move
    /// backwards.
    pub async fn commit(&self, batch: &Batch) -> Result<(), KafkaError> {
        let (consumer, topic, offsets) = (self.consumer.clone(), self.topic.clone(), batch.next_offsets());
        let rebalance = self.rebalance;
        let commit = blocking(move || {
            let mut list = TopicPartitionList::new();
            for (partition, offset) in offsets {
                list.add_partition_offset(&topic, partition, Offset::Offset(offset))?;
            }
            let is_assigned = consumer.context().rebalances() == rebalance;
            if is_assigned && list.count() > 0 { consumer.commit(&list, CommitMode::Sync) } else { Ok(()) }
        });
        match tokio::time::timeout(COMMIT_TIMEOUT, commit).await {
            Ok(result) => result.map_err(KafkaError::at(Operation::Commit)),
            Err(_) => Err(KafkaError::TimedOut(Operation::Commit)),
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            leave_group(inner);
        }
    }
}

impl std::fmt::Debug for Committer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committer").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("topic", &self.topic).finish_non_exhaustive()
    }
}

fn subscribe(config: &ClientConfig, topic: &str) -> Result<Arc<StreamConsumer<GroupMember>>, KafkaError> {
    let consumer = StreamConsumer::from_config_and_context(config, GroupMember::default())
        .map_err(KafkaError::at(Operation::Configure))?;
    consumer.subscribe(&[topic]).map_err(KafkaError::at(Operation::Configure))?;
    Ok(Arc::new(consumer))
}

/// Drops the consumer on a thread of its own, because that blocks until the broker has responded.
fn leave_group(consumer: Arc<StreamConsumer<GroupMember>>) -> tokio::sync::oneshot::Receiver<()> {
    let (done, left) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        drop(consumer);
        let _ = done.send(());
    });
    left
}
