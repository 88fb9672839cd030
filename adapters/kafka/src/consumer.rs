//! Consuming issued records in batches.
//!
//! # Guarantees
//! - Offsets are committed only by [`Consumer::commit`] and its committers, and never move backwards, unless the topic
//!   was deleted and created again.
//! - Dropping a future of [`Consumer::next_batch`] loses no record.
//! - A client that failed fatally, that receives nothing although its partitions have messages, or whose commits hang
//!   although the brokers respond, is replaced. A topic that was created again is consumed from its first message.
//!
//! # Caveats
//! Delivery is at-least-once: after a rebalance or a restart, uncommitted records are delivered again.

use std::{sync::Arc, time::Duration};

use couponry_settings::KafkaSettings;
use futures::FutureExt as _;
use rdkafka::{
    ClientConfig,
    config::{FromClientConfigAndContext as _, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer as _, StreamConsumer},
    error::KafkaError as RdKafkaError,
};
use tokio::{sync::watch, time::Instant};

use crate::{
    batch::Batch,
    blocking::blocking,
    client_log::ClientLog,
    committer::Committer,
    error::{KafkaError, Operation},
    group::GroupMember,
    message::Message,
    metadata::require_topic,
    settings,
    stall_detector::{Progress, StallDetector},
};

/// Whether the consumer receives the messages of its partitions, or the reason why it does not.
pub type ConsumerState = watch::Receiver<Result<(), String>>;

/// Timeout of a request for metadata.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of reading the positions of a client.
const POSITION_TIMEOUT: Duration = Duration::from_secs(5);

/// Consumes issued records as a member of a consumer group.
pub struct Consumer {
    config: ClientConfig,
    topic: String,
    /// None only while the consumer is dropped.
    inner: Option<Arc<StreamConsumer<GroupMember>>>,
    /// The next batch.
    pending: Batch,
    /// The rebalance after which the next batch was received.
    rebalance: u64,
    stall_detector: StallDetector,
    state: watch::Sender<Result<(), String>>,
}

/// What ends the wait for a message.
enum Event {
    Received(Result<Message, RdKafkaError>),
    Deadline,
    TopicRecreated,
    Checked(Progress),
}

impl Consumer {
    /// Connects in the background. Fails only if the settings are invalid.
    pub fn new(settings: &KafkaSettings, group: &str) -> Result<Self, KafkaError> {
        let mut config = settings::consumer(settings, group)?;
        let probe: BaseConsumer<ClientLog> = BaseConsumer::from_config_and_context(&config, ClientLog::default())
            .map_err(KafkaError::at(Operation::Configure))?;
        config
            .set("group.protocol", "classic")
            // The partitions of a killed consumer are reassigned after this time.
            .set("session.timeout.ms", "10000")
            .set("heartbeat.interval.ms", "2000")
            // While Postgres is unavailable, the consumer holds a batch and polls nothing.
            .set("max.poll.interval.ms", "600000")
            // New partitions are assigned after this time.
            .set("topic.metadata.refresh.interval.ms", "10000")
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.offset.store", "false")
            // At most twenty fetches per second, unless there is more data than this: one fetch per produce request
            // would cost the broker too much.
            .set("fetch.min.bytes", "65536")
            .set("fetch.wait.max.ms", "50")
            // Bounds the memory for records that are fetched ahead of the database.
            .set("queued.max.messages.kbytes", "16384")
            // Reports a topic that was created again: see `GroupMember`. The context `topic` would report it as well,
            // but librdkafka also writes such messages while it holds the lock of the queue that they are added to.
            .set("debug", "metadata")
            .set_log_level(RDKafkaLogLevel::Debug);
        let topic = settings.topic.clone();
        Ok(Self {
            inner: Some(subscribe(&config, &topic)?),
            stall_detector: StallDetector::new(probe, topic.clone()),
            config,
            topic,
            pending: Batch::default(),
            rebalance: 0,
            state: watch::Sender::new(Ok(())),
        })
    }

    /// Whether messages are received. It changes only while a batch is awaited.
    #[must_use]
    pub fn state(&self) -> ConsumerState {
        self.state.subscribe()
    }

    fn inner(&self) -> &Arc<StreamConsumer<GroupMember>> {
        self.inner.as_ref().expect("is present until the drop")
    }

    /// Waits for the first message without a limit, and then at most `linger` for more; returns at most `max` messages.
    /// The batch has no message if only markers of transactions were consumed, whose offsets are to be committed.
    ///
    /// After an error, call it again: librdkafka recovers by itself, and a client that cannot continue is replaced.
    /// Dropping the future loses nothing.
    pub async fn next_batch(&mut self, max: usize, linger: Duration) -> Result<Batch, KafkaError> {
        let mut deadline = (!self.pending.messages.is_empty()).then(|| Instant::now() + linger);
        while self.pending.messages.len() < max {
            if self.inner().context().commits.are_hung() && self.stall_detector.is_kafka_available().await {
                return Err(self.replace_client(KafkaError::TimedOut(Operation::Commit)));
            }
            match self.next_event(deadline).await {
                Event::Received(Ok(message)) => {
                    self.follow_rebalance();
                    self.inner().context().advance(message.partition, message.offset);
                    self.pending.messages.push(message);
                    deadline.get_or_insert_with(|| Instant::now() + linger);
                }
                // The received messages can be processed; if the error persists, the next call returns it.
                Event::Received(Err(_)) if !self.pending.messages.is_empty() => break,
                Event::Received(Err(cause)) => {
                    let error = KafkaError::at(Operation::Consume)(cause);
                    return Err(if error.is_fatal() { self.replace_client(error) } else { error });
                }
                Event::Deadline => break,
                Event::TopicRecreated => return Err(self.restart_topic().await),
                Event::Checked(Progress::Stalled(partitions)) => {
                    return Err(self.replace_client(KafkaError::Stalled(partitions)));
                }
                Event::Checked(progress) => {
                    if progress == Progress::Ok {
                        self.state.send_if_modified(|state| std::mem::replace(state, Ok(())).is_err());
                    }
                    self.pass_markers().await;
                    if self.pending.messages.is_empty() && !self.pending.passed_markers.is_empty() {
                        break;
                    }
                }
            }
        }
        Ok(std::mem::take(&mut self.pending))
    }

    /// Drops what was received before the latest rebalance: it is delivered again from the committed offset, to this
    /// member or another.
    fn follow_rebalance(&mut self) {
        let rebalance = self.inner().context().rebalances();
        if self.rebalance != rebalance {
            self.pending = Batch::default();
            self.rebalance = rebalance;
        }
    }

    /// Adds markers that were passed to the next batch. Otherwise the lag would stay above zero if the last offset of a
    /// partition is a marker, and a recovery of Redis would never finish.
    async fn pass_markers(&mut self) {
        self.follow_rebalance();
        let client = self.inner().clone();
        // The call waits for a thread of librdkafka, which may hang: the stall detector then replaces the client.
        // Without an assignment there is no position.
        let positions = tokio::time::timeout(POSITION_TIMEOUT, blocking(move || client.position())).await;
        if let Ok(Ok(positions)) = positions {
            let passed = self.inner().context().pass_markers(&positions);
            self.pending.passed_markers.extend(passed);
        }
    }

    async fn next_event(&mut self, deadline: Option<Instant>) -> Event {
        let client = self.inner().clone();
        let context = client.context();
        // The cheap way for messages that are in memory. A message of a topic that was created again is delivered after
        // the report about it.
        let available = client.recv().now_or_never().map(|received| received.map(|message| Message::from(&message)));
        if context.is_topic_recreated() {
            return Event::TopicRecreated;
        }
        if let Some(received) = available {
            return Event::Received(received);
        }
        tokio::select! {
            biased;
            () = context.topic_recreated() => Event::TopicRecreated,
            received = client.recv() => Event::Received(received.map(|message| Message::from(&message))),
            () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                Event::Deadline
            }
            progress = self.stall_detector.check(|| context.positions()) => Event::Checked(progress),
        }
    }

    /// Consumes a topic that was created again from its first message. Returns the error of the next batch.
    async fn restart_topic(&mut self) -> KafkaError {
        // What was consumed has offsets of the deleted topic.
        self.inner().context().fence();
        self.pending = Batch::default();
        match self.reset_offsets().await {
            Ok(()) => self.replace_client(KafkaError::TopicRecreated(self.topic.clone())),
            Err(error) => error,
        }
    }

    /// Moves the committed offsets of the assigned partitions to the beginning. The brokers have deleted them with the
    /// topic, but a commit may have arrived after that.
    async fn reset_offsets(&self) -> Result<(), KafkaError> {
        let (client, topic) = (self.inner().clone(), self.topic.clone());
        let metadata = blocking(move || client.fetch_metadata(Some(&topic), METADATA_TIMEOUT)).await;
        let context = self.inner().context();
        let count = require_topic(&self.topic, metadata, &context.log)?.len();
        let is_present = |partition: &i32| usize::try_from(*partition).is_ok_and(|partition| partition < count);
        let offsets = context.positions().into_keys().filter(is_present).map(|partition| (partition, 0)).collect();
        match self.committer().commit_offsets(offsets, |_| true).await {
            // The partitions belong to other members by now.
            Err(error) if error.has_lost_membership() => Ok(()),
            result => result,
        }
    }

    /// Replaces the client after an error, and returns the error.
    fn replace_client(&mut self, error: KafkaError) -> KafkaError {
        let cause: &dyn std::error::Error = &error;
        match subscribe(&self.config, &self.topic) {
            Ok(new) => {
                tracing::error!(error = cause, "replaced the Kafka client of the consumer");
                if let Some(old) = self.inner.replace(new) {
                    old.context().fence();
                    leave_group(old);
                }
                self.pending = Batch::default();
                self.rebalance = 0;
                self.stall_detector.restart();
                self.state.send_modify(|state| *state = Err(error.to_string()));
            }
            Err(failure) => {
                let failure: &dyn std::error::Error = &failure;
                tracing::error!(error = failure, cause, "cannot replace the Kafka client of the consumer");
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
        Committer::new(self.topic.clone(), self.inner(), self.rebalance)
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

impl Drop for Consumer {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            leave_group(inner);
        }
    }
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("topic", &self.topic).finish_non_exhaustive()
    }
}

fn subscribe(config: &ClientConfig, topic: &str) -> Result<Arc<StreamConsumer<GroupMember>>, KafkaError> {
    let consumer = StreamConsumer::from_config_and_context(config, GroupMember::new())
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
