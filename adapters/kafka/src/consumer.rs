//! Reading issued records in batches.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext, Offset, TopicPartitionList,
    config::{FromClientConfigAndContext as _, RDKafkaLogLevel},
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance, StreamConsumer},
    error::KafkaError,
    topic_partition_list::TopicPartitionListElem,
};
use tokio::time::Instant;

use crate::{
    JournalError, KafkaSettings, Message,
    blocking::blocking,
    error::Operation,
    settings::{self, Logs},
    topics,
};

/// How long committing may take before it is given up. Nothing is lost by that: the batch is seen again.
const COMMIT_WITHIN: Duration = Duration::from_secs(15);

/// Messages that were taken from the topic together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The messages; those of one partition are in order.
    pub messages: Vec<Message>,
}

impl Batch {
    /// For each partition, the offset after the last message.
    fn next_offsets(&self) -> BTreeMap<i32, i64> {
        let mut offsets = BTreeMap::new();
        for message in &self.messages {
            let next = offsets.entry(message.partition).or_insert(0);
            *next = (*next).max(message.offset + 1);
        }
        offsets
    }
}

/// Reads issued records as a member of a consumer group. Offsets are committed by [`Consumer::commit`] and [`Committer::commit`] only.
pub struct Consumer {
    config: ClientConfig,
    topic: String,
    /// None only while it is being dropped.
    inner: Option<Arc<StreamConsumer<Membership>>>,
    /// What was taken from Kafka for a batch that is not handed out yet.
    pending: Vec<Message>,
    /// In which rebalance we were given what was taken last.
    rebalance: u64,
}

impl Consumer {
    /// Connects in the background: fails only when the settings are no good.
    pub fn new(settings: &KafkaSettings, group: &str) -> Result<Self, JournalError> {
        let mut config = settings::client(settings)?;
        config
            .set("group.id", group)
            .set("group.protocol", "classic")
            // So long do the partitions of a killed consumer wait for another one.
            .set("session.timeout.ms", "10000")
            .set("heartbeat.interval.ms", "2000")
            // While Postgres is away, a batch is held and nothing is read.
            .set("max.poll.interval.ms", "600000")
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // The broker is asked twenty times in a second, more often only for more than this, and not for each request of a
            // producer.
            .set("fetch.min.bytes", "65536")
            .set("fetch.wait.max.ms", "50")
            // A backlog is read ahead of the database, but not all of it into memory.
            .set("queued.max.messages.kbytes", "16384");
        let inner = Some(join(&config, &settings.topic)?);
        Ok(Self { config, topic: settings.topic.clone(), inner, pending: Vec::new(), rebalance: 0 })
    }

    fn inner(&self) -> &Arc<StreamConsumer<Membership>> {
        self.inner.as_ref().expect("is there until the drop")
    }

    /// Waits for a message, as long as it takes, and then at most `linger` for more; at most `max` messages.
    ///
    /// After an error, call it again: librdkafka goes on by itself, and a consumer that cannot is replaced. Dropping the
    /// future loses nothing.
    pub async fn next_batch(&mut self, max: usize, linger: Duration) -> Result<Batch, JournalError> {
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
                    let rebalance = consumer.context().current();
                    if self.rebalance != rebalance {
                        // What was taken before comes again, from the offset that is committed: to us or to somebody else.
                        self.pending.clear();
                        self.rebalance = rebalance;
                    }
                    self.pending.push(Message::from(&message));
                    deadline.get_or_insert_with(|| Instant::now() + linger);
                }
                // What is here can be worked on meanwhile; the error comes back if it lasts.
                Err(_) if !self.pending.is_empty() => break,
                Err(cause) => return Err(self.recover(cause)),
            }
        }
        Ok(Batch { messages: std::mem::take(&mut self.pending) })
    }

    fn recover(&mut self, cause: KafkaError) -> JournalError {
        let error = JournalError::Kafka { operation: Operation::Receive, cause };
        if error.is_fatal() {
            match join(&self.config, &self.topic) {
                Ok(new) => {
                    tracing::error!(%error, "the Kafka consumer failed for good, going on with a new one");
                    if let Some(old) = self.inner.replace(new) {
                        leave(old);
                    }
                }
                Err(failure) => tracing::error!(%error, %failure, "the Kafka consumer failed for good"),
            }
        }
        error
    }

    /// See [`Committer::commit`].
    pub async fn commit(&self, batch: &Batch) -> Result<(), JournalError> {
        self.committer().commit(batch).await
    }

    /// For who commits the last batch while others read on.
    #[must_use]
    pub fn committer(&self) -> Committer {
        Committer { topic: self.topic.clone(), consumer: self.inner().clone(), rebalance: self.rebalance }
    }

    /// Whether the brokers answer within `timeout` and know the topic.
    pub async fn ping(&self, timeout: Duration) -> Result<(), JournalError> {
        let (consumer, topic) = (self.inner().clone(), self.topic.clone());
        let logs = consumer.context().logs.clone();
        let metadata = blocking(move || consumer.fetch_metadata(Some(&topic), timeout)).await;
        topics::existing(&self.topic, metadata, &logs)?;
        Ok(())
    }

    /// Leaves the group, so that others take over at once. Gives up after `deadline`; the group then finds out by itself.
    pub async fn close(mut self, deadline: Duration) {
        if let Some(inner) = self.inner.take() {
            let _ = tokio::time::timeout(deadline, leave(inner)).await;
        }
    }
}

/// Commits offsets for a [`Consumer`]. While there is one, the consumer cannot leave its group.
pub struct Committer {
    topic: String,
    consumer: Arc<StreamConsumer<Membership>>,
    rebalance: u64,
}

impl Committer {
    /// Tells the group that everything up to the end of `batch` is done, and waits until the broker knows.
    ///
    /// Nothing happens when partitions were given out anew since the batch was taken: then all of them are read again from the offset
    /// that is committed, and whoever did so may be further by now. An offset must not go back.
    pub async fn commit(&self, batch: &Batch) -> Result<(), JournalError> {
        let (consumer, topic, offsets) = (self.consumer.clone(), self.topic.clone(), batch.next_offsets());
        let rebalance = self.rebalance;
        let commit = blocking(move || {
            let mut list = TopicPartitionList::new();
            for (partition, offset) in offsets {
                list.add_partition_offset(&topic, partition, Offset::Offset(offset))?;
            }
            let is_ours = consumer.context().current() == rebalance;
            if is_ours && list.count() > 0 { consumer.commit(&list, CommitMode::Sync) } else { Ok(()) }
        });
        match tokio::time::timeout(COMMIT_WITHIN, commit).await {
            Ok(done) => done.map_err(JournalError::at(Operation::Commit)),
            Err(_) => Err(JournalError::TimedOut(Operation::Commit)),
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            leave(inner);
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

fn join(config: &ClientConfig, topic: &str) -> Result<Arc<StreamConsumer<Membership>>, JournalError> {
    let consumer = StreamConsumer::from_config_and_context(config, Membership::default())
        .map_err(JournalError::at(Operation::Configure))?;
    consumer.subscribe(&[topic]).map_err(JournalError::at(Operation::Configure))?;
    Ok(Arc::new(consumer))
}

/// Dropping a consumer waits for the broker, for as long as it takes: never on a thread that others need.
fn leave(consumer: Arc<StreamConsumer<Membership>>) -> tokio::sync::oneshot::Receiver<()> {
    let (done, left) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        drop(consumer);
        let _ = done.send(());
    });
    left
}

/// What happens to a member of a group.
#[derive(Default)]
struct Membership {
    logs: Logs,
    /// How often partitions were taken away or given. The protocol is the eager one: each time it is about all of them.
    rebalances: AtomicU64,
}

impl Membership {
    fn current(&self) -> u64 {
        self.rebalances.load(Ordering::SeqCst)
    }
}

impl ClientContext for Membership {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.logs.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.logs.error(error, reason);
    }
}

impl ConsumerContext for Membership {
    // While a message is waited for, and before the next one is there.
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
