//! Records batches from Kafka in Postgres.
//!
//! A batch goes through four steps in this order: its records are recorded in Postgres, the issued coupons are settled
//! in Redis, messages that can never be recorded are sent to the dead-letter topic, and the offsets are committed.
//!
//! A record that Postgres can neither record nor reject yet, whose event another Postgres session locks, or whose event
//! Redis cannot settle, is deferred: it is retried, and the commits from its batch on wait for it, while everything
//! else is processed ([`crate::deferred`]).
//!
//! Up to [`MAX_IN_FLIGHT_BATCHES`] batches are in flight, each recorded in a transaction of its own. The steps after
//! the recording run for one batch after the other, in the order in which they were consumed, so offsets are
//! committed in order. [`commits`] commits them, and does not delay the next batch.
//!
//! # Guarantees
//! Every step is idempotent and is retried until it succeeds. A batch whose offsets are not committed is consumed
//! again after a crash, so no record is lost or counted twice. Only a dead letter may be written twice.

use std::{
    collections::{BTreeSet, HashSet},
    error::Error,
    ops::Range,
    panic::resume_unwind,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use couponry_domain::{EventName, IssuedRecord, Uuid};
use couponry_kafka::{Batch, Committer, Consumer, DeadLetterProducer, Message, PendingCommit};
use couponry_postgres::{Database, DatabaseError, Deferral, RecordOutcome};
use couponry_redis::{FencedWrite, RedisStore, Settlement};
use couponry_runtime::{CancellationToken, Health, error_chain, retry_until_ok};
use futures::{FutureExt as _, StreamExt as _, future::join_all, stream};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tracing::{Instrument as _, Span};

use crate::{
    batch::{self, DeadLetter, Decoded, EventSettlements, FollowUps, RecordResult},
    commits,
    deferred::{Deferrals, DeferredMessage, WaitsFor},
    metrics::Metrics,
};

/// The dependency that `/readyz` reports while a step fails.
pub(crate) const PIPELINE: &str = "pipeline";

/// The part of `/readyz` that describes the deferred records.
pub(crate) const DEFERRED: &str = "deferred records";

/// Time between two attempts to record the deferred records.
const DEFERRED_INTERVAL: Duration = Duration::from_secs(2);

/// The most deferred records of an event that are recorded in one transaction.
const MAX_RETRIED: usize = 1000;

/// Of how many events deferred records are retried at the same time. Each occupies one Postgres backend process.
const MAX_RETRIED_EVENTS: usize = 4;

/// How long leaving the consumer group may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after an error of the consumer: short, because messages may already be available.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// One batch is recorded while the one before it is settled in Redis. Each batch that is being recorded occupies one
/// Postgres backend process.
const MAX_IN_FLIGHT_BATCHES: usize = 2;

/// After this time without a result of a step, the process is not ready.
const STEP_TIMEOUT: Duration = Duration::from_mins(1);

/// Maximum length of a dead letter's detail in the log. The detail may quote the message, which may be long.
const MAX_LOGGED_DETAIL: usize = 200;

/// Records batches with these servers.
pub(crate) struct Pipeline {
    pub(crate) dead_letters: DeadLetterProducer,
    pub(crate) database: Database,
    pub(crate) redis_store: RedisStore,
    /// Records of other installations are skipped.
    pub(crate) installation: Uuid,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    /// The events that another session of Postgres locks. New batches defer their records at once; only the retries of
    /// deferred records attempt them. Otherwise a complete batch would wait for the lock of one event.
    pub(crate) locked: Mutex<HashSet<Uuid>>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) max_messages: usize,
    pub(crate) linger: Duration,
}

/// The shutdown began before all steps of a batch succeeded. Its offsets are not committed, so it is consumed again.
struct Interrupted;

/// A batch that is recorded in Postgres.
struct Recorded {
    batch: Batch,
    committer: Committer,
    follow_ups: FollowUps,
    begin: Instant,
    span: Span,
}

/// The result of a retry of deferred records of one event.
struct Retried {
    event: Uuid,
    count: usize,
    /// Those that are still deferred.
    still: Vec<DeferredMessage>,
}

/// A batch that is being recorded.
type Recording = JoinHandle<Result<Recorded, Interrupted>>;

impl Pipeline {
    /// Processes batches until the shutdown, then finishes the batches in flight and leaves the consumer group.
    ///
    /// # Panics
    /// If the processing of a batch panics. The batch is consumed again after a restart.
    pub(crate) async fn run(self, mut consumer: Consumer) {
        let pipeline = Arc::new(self);
        // `finish_all` holds one more batch, which it has taken out of the queue.
        let (recordings, queue) = mpsc::channel(MAX_IN_FLIGHT_BATCHES - 1);
        let (commits, pending_commits) = mpsc::unbounded_channel();
        let committing =
            tokio::spawn(commits::commit_all(pending_commits, pipeline.health.clone(), pipeline.shutdown.clone()));
        let finishing = tokio::spawn(pipeline.clone().finish_all(queue, commits));
        while let Some(Ok(permit)) = pipeline.shutdown.run_until_cancelled(recordings.reserve()).await {
            let batch = tokio::select! {
                biased;
                () = pipeline.shutdown.cancelled() => break,
                () = recordings.closed() => break,
                batch = consumer.next_batch(pipeline.max_messages, pipeline.linger) => batch,
            };
            match batch {
                Ok(batch) => {
                    let span = tracing::debug_span!(
                        "record_batch",
                        partitions =
                            batch.messages.iter().map(|message| message.partition).collect::<BTreeSet<_>>().len(),
                        messages = batch.messages.len(),
                    );
                    let recording = pipeline.clone().record_batch(batch, consumer.committer(), span.clone());
                    permit.send(tokio::spawn(recording.instrument(span)));
                }
                Err(error) => {
                    // librdkafka reports each lost connection here and reconnects by itself. The readiness of Kafka
                    // is checked by the watcher.
                    tracing::debug!(error = error_chain(error), "cannot consume a batch");
                    pipeline.pause(ERROR_PAUSE).await;
                }
            }
        }
        drop(recordings);
        match finishing.await {
            Ok(Ok(())) => {}
            Ok(Err(Interrupted)) => tracing::warn!("shutdown before a batch was committed, it will be consumed again"),
            Err(panic) => resume_unwind(panic.into_panic()),
        }
        if let Err(panic) = committing.await {
            resume_unwind(panic.into_panic());
        }
        consumer.close(LEAVE_TIMEOUT).await;
    }

    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.shutdown.cancelled() => {}
        }
    }

    async fn record_batch(
        self: Arc<Self>,
        batch: Batch,
        committer: Committer,
        span: Span,
    ) -> Result<Recorded, Interrupted> {
        let begin = Instant::now();
        #[expect(clippy::cast_precision_loss, reason = "a batch has at most a few thousand messages")]
        self.metrics.batch_messages.observe(batch.messages.len() as f64);

        let decoded = batch::decode(&batch.messages, self.installation);
        self.report_foreign(&batch.messages, &decoded);
        if couponry_failpoint::is_on("consumer.offsets-first") {
            committer.commit(&batch).await.ok();
            couponry_failpoint::crash("consumer.after-offsets-first");
        }
        let locked = self.locked().clone();
        let results = self.record(&decoded.records, &locked).await?;
        couponry_failpoint::crash("consumer.after-record");
        let follow_ups = decoded.follow_ups(results);
        Ok(Recorded { batch, committer, follow_ups, begin, span })
    }

    /// Counts the records of other installations, and logs the first of them.
    fn report_foreign(&self, messages: &[Message], decoded: &Decoded) {
        let Some((first, count)) = decoded.foreign else { return };
        if self.metrics.foreign_records.inc_by(count) == 0 {
            let other = String::from_utf8_lossy(messages[first].installation().unwrap_or_default());
            let (own, other) = (self.installation, other.chars().take(MAX_LOGGED_DETAIL).collect::<String>());
            tracing::warn!(%own, other, "skipping records of another installation: use a topic for each installation");
        }
    }

    async fn finish_all(
        self: Arc<Self>,
        mut recordings: mpsc::Receiver<Recording>,
        commits: mpsc::UnboundedSender<PendingCommit>,
    ) -> Result<(), Interrupted> {
        let mut processed = Ok(());
        let mut deferrals = Deferrals::new();
        let mut retry_at = Instant::now();
        // Polled concurrently with the batches, which must not wait for an event that is not available.
        let mut retrying = None;
        loop {
            // After an interruption, the batches are awaited but not processed: each holds a `Committer` and thus the
            // consumer, which can only leave the group when all are dropped. Their offsets must not be committed before
            // those of the interrupted batch.
            let is_active = processed.is_ok() && !self.shutdown.is_cancelled();
            tokio::select! {
                recording = recordings.recv(), if !is_active || !deferrals.is_full() => {
                    let Some(recording) = recording else { break };
                    let recorded = recording.await.unwrap_or_else(|panic| resume_unwind(panic.into_panic()));
                    processed = match (processed, recorded) {
                        (Ok(()), Ok(recorded)) => {
                            let span = recorded.span.clone();
                            self.finish(recorded, &mut deferrals, &commits).instrument(span).await
                        }
                        _ => Err(Interrupted),
                    };
                }
                () = tokio::time::sleep_until(retry_at),
                    if is_active && retrying.is_none() && !deferrals.is_empty() =>
                {
                    let first = |event| (event, deferrals.first(event, MAX_RETRIED));
                    let first = deferrals.events().into_iter().map(first).collect();
                    retrying = Some(self.retry_deferred(first).boxed());
                }
                Some(retried) = async { Some(retrying.as_mut()?.await) }, if retrying.is_some() => {
                    retrying = None;
                    retry_at = Instant::now() + DEFERRED_INTERVAL;
                    match retried {
                        Ok(all) => for Retried { event, count, still } in all {
                            if still.is_empty() {
                                // There may be more of this event.
                                retry_at = Instant::now();
                            }
                            deferrals.replace_first(event, count, still);
                        },
                        Err(Interrupted) => processed = Err(Interrupted),
                    }
                    self.commit(&mut deferrals, &commits);
                }
                () = self.shutdown.cancelled(), if is_active => {}
            }
        }
        if let Some(retrying) = retrying {
            // A statement of Postgres must not be cancelled.
            let _ = retrying.await;
        }
        if deferrals.is_empty() { processed } else { Err(Interrupted) }
    }

    async fn finish(
        &self,
        recorded: Recorded,
        deferrals: &mut Deferrals<PendingCommit>,
        commits: &mpsc::UnboundedSender<PendingCommit>,
    ) -> Result<(), Interrupted> {
        let Recorded { batch, committer, follow_ups, begin, span: _ } = recorded;
        let (recorded, already_recorded) = (follow_ups.recorded, follow_ups.already_recorded);
        self.metrics.recorded.inc_by(recorded);
        self.metrics.already_recorded.inc_by(already_recorded);
        let deferred = self.follow_up(&batch.messages, follow_ups, deferrals).await?;
        couponry_failpoint::crash("consumer.before-offsets");
        let is_first = deferrals.is_empty();
        deferrals.push(committer.pending_commit(&batch), deferred);
        if is_first && !deferrals.is_empty() {
            let records = deferrals.describe();
            tracing::warn!(records, "deferred records whose event is not available");
        }
        self.commit(deferrals, commits);
        self.metrics.batch_processing_duration.observe(begin.elapsed().as_secs_f64());
        tracing::debug!(messages = batch.messages.len(), recorded, already_recorded, "batch processed");
        Ok(())
    }

    /// Executes the follow-ups of these messages, and returns those that are deferred. If earlier coupons
    /// of an event wait for their settlement in `deferrals`, these are deferred, too, so that the order is kept.
    async fn follow_up<C>(
        &self,
        messages: &[Message],
        follow_ups: FollowUps,
        deferrals: &Deferrals<C>,
    ) -> Result<Vec<DeferredMessage>, Interrupted> {
        let FollowUps { settlements, mut dead_letters, recorded: _, already_recorded: _, deferred } = follow_ups;
        let deferred_message = |index: usize, event, cause, waits_for| DeferredMessage {
            event,
            cause,
            waits_for,
            message: messages[index].clone(),
        };
        let deferred = deferred.into_iter().map(|(index, event, cause)| {
            let waits_for = if cause == Deferral::Locked { WaitsFor::Unlock } else { WaitsFor::Recording };
            deferred_message(index, event, cause.to_string(), waits_for)
        });
        let mut deferred: Vec<DeferredMessage> = deferred.collect();
        let settled = settlements.into_iter().map(async |((event, uid), EventSettlements { settlements, indexes })| {
            let cause = match deferrals.unsettled(uid) {
                Some(cause) => Some(cause.to_owned()),
                None => self.settle(&event, uid, &settlements).await?,
            };
            Ok(cause.map(|cause| (uid, indexes, cause)))
        });
        for unsettled in join_all(settled).await {
            let Some((uid, indexes, cause)) = unsettled? else { continue };
            // Otherwise each retry would send the dead letter again.
            dead_letters.retain(|letter| !indexes.contains(&letter.index));
            deferred.extend(
                indexes.into_iter().map(|index| deferred_message(index, uid, cause.clone(), WaitsFor::Settlement)),
            );
        }
        self.send_to_dlq(messages, dead_letters).await?;
        Ok(deferred)
    }

    /// Settles coupons of one event. Returns the cause if Redis cannot settle them although it is available for other
    /// events.
    async fn settle(
        &self,
        event: &EventName,
        uid: Uuid,
        settlements: &[Settlement],
    ) -> Result<Option<String>, Interrupted> {
        let settled = self.retry_step("settling in Redis", async || {
            let error = match self.redis_store.settle(event, uid, settlements).await {
                Ok(settled) => return Ok(Ok(settled)),
                Err(error) => error,
            };
            match self.redis_store.ping().await {
                Err(outage) if !outage.is_partial_outage() => Err(error),
                _ => Ok(Err(error)),
            }
        });
        Ok(match settled.await? {
            Ok(FencedWrite::Applied(settled)) => {
                self.metrics.coupons_requeued.inc_by(settled.requeued);
                None
            }
            Ok(FencedWrite::Stale) => None,
            Err(error) => Some(error_chain(error)),
        })
    }

    /// Commits the batches before the first deferred record, and publishes how many records are deferred.
    fn commit(&self, deferrals: &mut Deferrals<PendingCommit>, commits: &mpsc::UnboundedSender<PendingCommit>) {
        while let Some(commit) = deferrals.pop_committable() {
            // The receiver only ends before the sender if it has panicked.
            let _ = commits.send(commit);
        }
        *self.locked() = deferrals.locked_events();
        let count = deferrals.len();
        self.metrics.deferred_records.set(i64::try_from(count).unwrap_or(i64::MAX));
        match count {
            0 => self.health.set(DEFERRED, Ok::<_, String>(())),
            // The process is ready: other events are recorded.
            _ => self.health.degrade(DEFERRED, deferrals.describe()),
        }
    }

    /// Records and settles deferred records of each event, or decides that they never can be.
    async fn retry_deferred(&self, deferred: Vec<(Uuid, Vec<Message>)>) -> Result<Vec<Retried>, Interrupted> {
        let retries = deferred.into_iter().map(async |(event, messages)| {
            let decoded = batch::decode(&messages, self.installation);
            let results = self.record(&decoded.records, &HashSet::new()).await?;
            let follow_ups = decoded.follow_ups(results);
            self.metrics.recorded.inc_by(follow_ups.recorded);
            let still = self.follow_up(&messages, follow_ups, &Deferrals::<()>::new()).await?;
            Ok(Retried { event, count: messages.len(), still })
        });
        stream::iter(retries).buffer_unordered(MAX_RETRIED_EVENTS).collect::<Vec<_>>().await.into_iter().collect()
    }

    /// Records everything that can be recorded. If Postgres rejects the data of a batch, it is bisected until the
    /// invalid record is found. The results have the order of the records. Those of `locked` events are deferred.
    async fn record(&self, records: &[IssuedRecord], locked: &HashSet<Uuid>) -> Result<Vec<RecordResult>, Interrupted> {
        let mut results = Vec::with_capacity(records.len());
        let mut parts: Vec<Range<usize>> = std::iter::once(0..records.len()).collect();
        while let Some(part) = parts.pop() {
            match self.record_part(&records[part.clone()], locked).await? {
                Ok(outcomes) => results.extend(outcomes.into_iter().map(RecordResult::Outcome)),
                Err(error) if part.len() == 1 => results.push(RecordResult::Unrecordable(error_chain(error))),
                Err(_) => {
                    let middle = part.start + part.len() / 2;
                    parts.push(middle..part.end);
                    parts.push(part.start..middle);
                }
            }
        }
        Ok(results)
    }

    /// `Ok(Err(_))`: Postgres rejects the data. Any other error would affect other records as well, so it is retried.
    async fn record_part(
        &self,
        records: &[IssuedRecord],
        locked: &HashSet<Uuid>,
    ) -> Result<Result<Vec<RecordOutcome>, DatabaseError>, Interrupted> {
        if records.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        self.retry_step("recording in Postgres", async || {
            match self.database.record_except(records, locked.clone()).await {
                Err(error) if error.is_invalid_data() => Ok(Err(error)),
                result => result.map(Ok),
            }
        })
        .await
    }

    fn locked(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send_to_dlq(&self, messages: &[Message], letters: Vec<DeadLetter>) -> Result<(), Interrupted> {
        let deliveries = letters.into_iter().map(async |DeadLetter { index, reason, detail }| {
            let message = &messages[index];
            self.retry_step("sending a dead letter", || self.dead_letters.send(message, reason, &detail)).await?;
            self.metrics.count_dead_letter(reason);
            let Message { partition, offset, .. } = message;
            let detail: String = detail.chars().take(MAX_LOGGED_DETAIL).collect();
            tracing::warn!(partition, offset, reason, detail, "dead-lettered a message that can never be recorded");
            Ok(())
        });
        join_all(deliveries).await.into_iter().collect()
    }

    /// Retries a step until it succeeds. The process is not ready while it fails.
    async fn retry_step<T, E, F>(&self, step: &str, attempt: impl Fn() -> F) -> Result<T, Interrupted>
    where
        E: Error + Send + Sync + 'static,
        F: Future<Output = Result<T, E>>,
    {
        let attempt = || async {
            watch_step(&self.health, STEP_TIMEOUT, step, attempt()).await.map_err(error_chain).inspect_err(|error| {
                self.health.set(PIPELINE, Err(format!("{step}: {error}")));
            })
        };
        // The first attempt also runs during the shutdown, so that a batch in flight is finished.
        let value = match attempt().await {
            Ok(value) => value,
            Err(_) => retry_until_ok(step, &self.shutdown, attempt).await.ok_or(Interrupted)?,
        };
        self.health.set(PIPELINE, Ok::<_, String>(()));
        Ok(value)
    }
}

/// Waits for an attempt. The process is not ready while it takes longer than `timeout`.
async fn watch_step<T>(health: &Health, timeout: Duration, step: &str, attempt: impl Future<Output = T>) -> T {
    let mut attempt = pin!(attempt);
    if let Ok(result) = tokio::time::timeout(timeout, &mut attempt).await {
        return result;
    }
    health.set(PIPELINE, Err(format!("{step}: no result for {timeout:?}")));
    attempt.await
}

#[cfg(test)]
mod tests {
    use futures::poll;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn step_without_a_result_makes_the_process_unready_and_is_still_awaited() {
        let health = Health::new(&[PIPELINE]);
        health.set(PIPELINE, Ok::<_, String>(()));
        let (end, ended) = oneshot::channel();
        let mut watched = pin!(watch_step(&health, Duration::from_millis(1), "recording", ended));
        while health.missing().is_empty() {
            assert!(poll!(&mut watched).is_pending());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(health.missing(), [(PIPELINE, "recording: no result for 1ms".to_owned())]);
        end.send(7).unwrap();
        assert_eq!(watched.await, Ok(7));
    }
}
