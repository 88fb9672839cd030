//! From Kafka to Postgres, batch by batch.
//!
//! A batch goes through four steps, in this order: it is recorded, what can never be recorded is written to the dead
//! letters, Redis is told, and the offsets are committed. Each step may be done again without harm, and each is tried until
//! it succeeds; so wherever a consumer ends, the next one begins with a batch that is whole, and nothing is lost or counted
//! twice. Only a dead letter may be there twice.
//!
//! Up to [`UNDER_WAY`] batches are under way side by side, and each is recorded in a transaction of its own. The other steps are
//! taken batch by batch, in the order in which they were read: so offsets are committed in order.

use std::{ops::Range, panic::resume_unwind, sync::Arc, time::Duration};

use couponry_domain::IssuedRecord;
use couponry_kafka::{Batch, Committer, Consumer, DeadLetters, Message};
use couponry_postgres::{Database, DatabaseError, Recording};
use couponry_redis::{Loaded, Stock};
use couponry_runtime::{CancellationToken, Health, patiently};
use futures::future::join_all;
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

use crate::{
    PIPELINE,
    batch::{self, Consequences, DeadLetter, Verdict},
    metrics::Metrics,
};

/// How long leaving the group may take at the end.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);

/// How long to wait after Kafka had nothing but an error: short, since messages may be available behind it.
const AFTER_ERROR: Duration = Duration::from_millis(50);

/// How many batches are under way side by side. Postgres has a process for each that is being recorded; while Redis is told of one,
/// the next is recorded.
const UNDER_WAY: usize = 2;

/// The way of the records, and the servers on it.
pub(crate) struct Pipeline {
    pub(crate) dead_letters: DeadLetters,
    pub(crate) database: Database,
    pub(crate) stock: Stock,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    pub(crate) shutdown: CancellationToken,
    pub(crate) max_messages: usize,
    pub(crate) linger: Duration,
}

/// The shutdown came before the batch was through. It is not committed, and whoever reads it next does it again.
struct Interrupted;

/// A batch that Postgres knows.
struct Recorded {
    batch: Batch,
    committer: Committer,
    consequences: Consequences,
    begin: Instant,
}

/// A batch that is being recorded.
type BeingRecorded = JoinHandle<Result<Recorded, Interrupted>>;

impl Pipeline {
    /// Works until the shutdown, then finishes the batches under way and leaves the group.
    ///
    /// # Panics
    /// When a batch does: whoever starts the process again begins with that batch.
    pub(crate) async fn run(self, mut consumer: Consumer) {
        let pipeline = Arc::new(self);
        // Without the one that `settle_all` has taken out and waits for.
        let (recordings, queue) = mpsc::channel(UNDER_WAY - 1);
        let settling = tokio::spawn(pipeline.clone().settle_all(queue));
        while let Some(Ok(place)) = pipeline.shutdown.run_until_cancelled(recordings.reserve()).await {
            let batch = tokio::select! {
                biased;
                () = pipeline.shutdown.cancelled() => break,
                () = recordings.closed() => break,
                batch = consumer.next_batch(pipeline.max_messages, pipeline.linger) => batch,
            };
            match batch {
                Ok(batch) => {
                    place.send(tokio::spawn(pipeline.clone().record_batch(batch, consumer.committer())));
                }
                Err(error) => {
                    // librdkafka reports each lost connection here and goes on by itself; whether Kafka is there is
                    // watched elsewhere.
                    tracing::debug!(%error, "nothing from Kafka");
                    pipeline.pause(AFTER_ERROR).await;
                }
            }
        }
        drop(recordings);
        match settling.await {
            Ok(Ok(())) => {}
            Ok(Err(Interrupted)) => tracing::warn!("ending before a batch is through: it will be read again"),
            Err(panic) => resume_unwind(panic.into_panic()),
        }
        consumer.close(LEAVE_WITHIN).await;
    }

    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.shutdown.cancelled() => {}
        }
    }

    async fn record_batch(self: Arc<Self>, batch: Batch, committer: Committer) -> Result<Recorded, Interrupted> {
        let begin = Instant::now();
        #[expect(clippy::cast_precision_loss, reason = "a batch has some thousand messages")]
        self.metrics.batch_messages.observe(batch.messages.len() as f64);

        let decoded = batch::decode(&batch.messages);
        if couponry_failpoint::is_on("consumer.offsets-first") {
            committer.commit(&batch).await.ok();
            couponry_failpoint::crash("consumer.after-offsets-first");
        }
        let verdicts = self.record(&decoded.records).await?;
        couponry_failpoint::crash("consumer.after-record");
        let consequences = decoded.conclude(verdicts);
        self.metrics.recorded.inc_by(consequences.recorded);
        self.metrics.already_recorded.inc_by(consequences.already_recorded);
        Ok(Recorded { batch, committer, consequences, begin })
    }

    async fn settle_all(self: Arc<Self>, mut recordings: mpsc::Receiver<BeingRecorded>) -> Result<(), Interrupted> {
        let mut settled = Ok(());
        while let Some(recording) = recordings.recv().await {
            let recorded = recording.await.unwrap_or_else(|panic| resume_unwind(panic.into_panic()));
            settled = match (settled, recorded) {
                (Ok(()), Ok(recorded)) => self.settle(recorded).await,
                // Those behind it are waited for and left alone: one holds the connection that leaves the group, and its offsets
                // must not be committed before those of the first.
                _ => Err(Interrupted),
            };
        }
        settled
    }

    async fn settle(&self, recorded: Recorded) -> Result<(), Interrupted> {
        let Recorded { batch, committer, consequences, begin } = recorded;
        let Consequences { settlements, dead_letters, recorded, already_recorded } = consequences;
        self.bury(&batch.messages, dead_letters).await?;
        for ((event, uid), settlements) in settlements {
            let settled = self.try_until_done("telling Redis", || self.stock.settle(&event, uid, &settlements)).await?;
            if let Loaded::Here(settled) = settled {
                self.metrics.coupons_returned.inc_by(settled.returned);
            }
        }
        couponry_failpoint::crash("consumer.before-offsets");
        // Without a commit the batch is merely done again.
        if let Err(error) = committer.commit(&batch).await {
            tracing::warn!(%error, "the batch may be read again");
        }
        self.metrics.batch_seconds.observe(begin.elapsed().as_secs_f64());
        tracing::debug!(messages = batch.messages.len(), recorded, already_recorded, "batch done");
        Ok(())
    }

    /// Records all that can be recorded. If Postgres refuses the batch because of what is in it, halves are tried, until
    /// the record that it refuses is found; the order of the batch stays.
    async fn record(&self, records: &[IssuedRecord]) -> Result<Vec<Verdict>, Interrupted> {
        let mut verdicts = Vec::with_capacity(records.len());
        let mut parts: Vec<Range<usize>> = std::iter::once(0..records.len()).collect();
        while let Some(part) = parts.pop() {
            match self.record_part(&records[part.clone()]).await? {
                Ok(recordings) => verdicts.extend(recordings.into_iter().map(Verdict::Known)),
                Err(error) if part.len() == 1 => verdicts.push(Verdict::Unrecordable(error.to_string())),
                Err(_) => {
                    let middle = part.start + part.len() / 2;
                    parts.push(middle..part.end);
                    parts.push(part.start..middle);
                }
            }
        }
        Ok(verdicts)
    }

    /// The inner error is about the data; all others are waited out, since other records would meet them as well.
    async fn record_part(&self, records: &[IssuedRecord]) -> Result<Result<Vec<Recording>, DatabaseError>, Interrupted> {
        if records.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        self.try_until_done("recording in Postgres", async || match self.database.record(records).await {
            Err(error) if error.is_about_data() => Ok(Err(error)),
            result => result.map(Ok),
        })
        .await
    }

    async fn bury(&self, messages: &[Message], letters: Vec<DeadLetter>) -> Result<(), Interrupted> {
        let burials = letters.into_iter().map(async |DeadLetter { index, reason, detail }| {
            let message = &messages[index];
            self.try_until_done("writing a dead letter", || self.dead_letters.send(message, reason, &detail)).await?;
            self.metrics.count_dead_letter(reason);
            let Message { partition, offset, .. } = message;
            // It may quote the message, which may be long.
            let detail: String = detail.chars().take(200).collect();
            tracing::warn!(partition, offset, reason, detail, "this message can never be recorded: now a dead letter");
            Ok(())
        });
        join_all(burials).await.into_iter().collect()
    }

    /// Repeats a step until it succeeds, and says in the readiness that it does not.
    async fn try_until_done<T, E, F>(&self, what: &str, step: impl Fn() -> F) -> Result<T, Interrupted>
    where
        E: std::fmt::Display,
        F: Future<Output = Result<T, E>>,
    {
        // A step that is fine right away, as nearly all are, also finishes a batch in the middle of the shutdown.
        let mut outcome = step().await;
        if let Err(error) = &outcome {
            self.health.set(PIPELINE, Err(format!("{what}: {error}")));
            let again = patiently(what, &self.shutdown, || async {
                let outcome = step().await;
                if let Err(error) = &outcome {
                    self.health.set(PIPELINE, Err(format!("{what}: {error}")));
                }
                outcome
            });
            outcome = Ok(again.await.ok_or(Interrupted)?);
        }
        self.health.set(PIPELINE, Ok::<_, String>(()));
        outcome.map_err(|_| Interrupted)
    }
}
