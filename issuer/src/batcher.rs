//! Batches the requests of an event: the requests that arrive during a call to Redis are collected for the next call.
//! Without load a request is sent at once; under load the batches grow.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use couponry_domain::{Acknowledge, EventName, IssuedRecord, UserId, code::CouponCode};
use couponry_redis::{IssueOutcome, IssueReply, RedisStore};
use couponry_runtime::error_chain;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time,
};

use crate::{metrics::Metrics, recent_events::RecentEvents, relay::Relay};

/// The queue of an event is removed after this time without requests.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// The result of an issue request.
#[derive(Debug)]
pub(crate) enum IssueResult {
    /// Redis returned an outcome.
    Decided {
        /// The outcome.
        outcome: IssueOutcome,
        /// From when on the coupon of the user is not valid any more. None: the user has no coupon, or it
        /// is valid without limit.
        valid_until: Option<i64>,
    },
    /// The event does not exist.
    UnknownEvent,
    /// A coupon may have been issued. A retry returns the outcome.
    UnknownOutcome,
    /// The queue is full: the request was not processed.
    Overloaded,
}

impl IssueResult {
    /// The label in the metrics.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Decided { outcome, .. } => match outcome {
                IssueOutcome::Issued(_) => "issued",
                IssueOutcome::Duplicate(_) => "duplicate",
                IssueOutcome::Voided => "voided",
                IssueOutcome::SoldOut { .. } => "sold_out",
                IssueOutcome::Wait { .. } => "wait",
                IssueOutcome::NotStarted => "not_started",
                IssueOutcome::Ended => "ended",
                IssueOutcome::Paused => "paused",
                IssueOutcome::Unverified => "unverified",
                IssueOutcome::Undecodable => "undecodable",
            },
            Self::UnknownEvent => "unknown_event",
            Self::UnknownOutcome => "unknown_outcome",
            Self::Overloaded => "overloaded",
        }
    }
}

struct Request {
    user: UserId,
    response: oneshot::Sender<IssueResult>,
}

/// One queue of requests per event.
pub(crate) struct Batchers {
    batcher: Batcher,
    /// The runtime that processes the queues. On that of the requests, each call to Redis would wait behind all
    /// requests.
    runtime: Handle,
    queues: Arc<Queues>,
    max_queued_requests: usize,
}

type Queues = Mutex<HashMap<EventName, mpsc::Sender<Request>>>;

#[derive(Clone)]
struct Batcher {
    redis_store: RedisStore,
    relay: Relay,
    metrics: Metrics,
    recent_events: Arc<RecentEvents>,
    max_batch: usize,
}

impl Batchers {
    pub(crate) fn new(
        redis_store: RedisStore,
        relay: Relay,
        metrics: Metrics,
        recent_events: Arc<RecentEvents>,
        max_batch: usize,
        max_queued_requests: u32,
    ) -> Self {
        let max_queued_requests = usize::try_from(max_queued_requests).unwrap_or(usize::MAX);
        let batcher = Batcher { redis_store, relay, metrics, recent_events, max_batch };
        Self { batcher, runtime: Handle::current(), queues: Arc::default(), max_queued_requests }
    }

    /// Issues a coupon to `user`.
    pub(crate) async fn issue(&self, event: &EventName, user: UserId) -> IssueResult {
        let (response, receiver) = oneshot::channel();
        let mut request = Request { user, response };
        loop {
            match self.queue(event).try_send(request) {
                Ok(()) => break,
                Err(mpsc::error::TrySendError::Full(_)) => return IssueResult::Overloaded,
                // The task of the queue ended in between: the next iteration creates another queue.
                Err(mpsc::error::TrySendError::Closed(rejected)) => request = rejected,
            }
        }
        receiver.await.unwrap_or(IssueResult::UnknownOutcome)
    }

    fn queue(&self, event: &EventName) -> mpsc::Sender<Request> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(event).filter(|queue| !queue.is_closed()) {
            return queue.clone();
        }
        let (queue, requests) = mpsc::channel(self.max_queued_requests);
        queues.insert(event.clone(), queue.clone());
        self.runtime.spawn(run(self.batcher.clone(), event.clone(), requests, self.queues.clone()));
        queue
    }
}

/// Processes the requests of one event until the queue is idle. The queue of an event that is not known to exist ends
/// as soon as it is empty, so that requests with random names do not accumulate memory, not even during an outage of
/// Redis.
async fn run(batcher: Batcher, event: EventName, mut requests: mpsc::Receiver<Request>, queues: Arc<Queues>) {
    let mut batch = Vec::new();
    let mut exists = false;
    loop {
        let received = time::timeout(IDLE_TIMEOUT, requests.recv_many(&mut batch, batcher.max_batch)).await;
        if received.is_ok() {
            exists = batcher.process(&event, &mut batch, exists).await;
        }
        // A second queue may only be created once this one is empty, otherwise more requests than the limit could
        // wait.
        if received.is_err() || (!exists && requests.is_empty()) {
            requests.close();
            // Requests that were queued before the close are processed as well.
            while requests.recv_many(&mut batch, batcher.max_batch).await > 0 {
                batcher.process(&event, &mut batch, exists).await;
            }
            let mut queues = queues.lock().unwrap_or_else(PoisonError::into_inner);
            if queues.get(&event).is_some_and(mpsc::Sender::is_closed) {
                queues.remove(&event);
            }
            return;
        }
    }
}

impl Batcher {
    /// Responds to the requests of `batch` and drains it. Returns whether the event exists, or `exists` if that is
    /// unknown.
    async fn process(&self, event: &EventName, batch: &mut Vec<Request>, exists: bool) -> bool {
        // The request of a client that has disconnected is dropped; the client can retry.
        batch.retain(|request| !request.response.is_closed());
        if batch.is_empty() {
            return exists;
        }
        let (users, responses): (Vec<_>, Vec<_>) =
            batch.drain(..).map(|request| (request.user, request.response)).unzip();
        self.issue_batch(event, &users, responses).await.unwrap_or(exists)
    }

    /// Returns whether the event exists, or None if the outcome is unknown.
    #[tracing::instrument(level = "debug", skip_all, fields(%event, users = users.len()))]
    async fn issue_batch(
        &self,
        event: &EventName,
        users: &[UserId],
        responses: Vec<oneshot::Sender<IssueResult>>,
    ) -> Option<bool> {
        #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
        self.metrics.batch_users.observe(users.len() as f64);
        match self.redis_store.issue(event, users).await {
            Ok(Some(reply)) => {
                couponry_failpoint::crash("issuer.after-lua");
                self.recent_events.note(event);
                self.respond(event, responses, reply);
                Some(true)
            }
            Ok(None) => {
                let may_exist = self.recent_events.may_exist(event, &self.redis_store).await;
                send_all(responses, || {
                    if may_exist {
                        IssueResult::Decided { outcome: IssueOutcome::Unverified, valid_until: None }
                    } else {
                        IssueResult::UnknownEvent
                    }
                });
                Some(self.recent_events.contains(event))
            }
            Err(error) => {
                let error = error_chain(error);
                tracing::warn!(error, %event, count = users.len(), "outcome of a batch is unknown");
                send_all(responses, || IssueResult::UnknownOutcome);
                None
            }
        }
    }

    fn respond(&self, event: &EventName, responses: Vec<oneshot::Sender<IssueResult>>, reply: IssueReply) {
        let IssueReply { event_uid, installation, acknowledge, validity, valid_until, outcomes, outbox } = reply;
        let undecodable = outcomes.iter().filter(|outcome| matches!(outcome, IssueOutcome::Undecodable)).count();
        if undecodable > 0 {
            tracing::error!(%event, count = undecodable, "cannot decode values of couponIssued or couponQueue");
        }
        let valid_until = |outcome: &IssueOutcome| match outcome {
            IssueOutcome::Issued(_) => valid_until,
            IssueOutcome::Duplicate(entry) => {
                validity.as_ref().map(|validity| validity.valid_until(entry.issued.issued_at))
            }
            _ => None,
        };
        if acknowledge == Acknowledge::Redis {
            for (response, outcome) in responses.into_iter().zip(outcomes) {
                let valid_until = valid_until(&outcome);
                let _ = response.send(IssueResult::Decided { outcome, valid_until });
            }
            if let Some(entry) = outbox {
                drop(self.relay.send_entry(event, entry));
            }
            return;
        }
        let valid_until: Vec<_> = outcomes.iter().map(valid_until).collect();
        let issued: HashSet<&CouponCode> = outcomes
            .iter()
            .filter_map(|outcome| if let IssueOutcome::Issued(issued) = outcome { Some(&issued.coupon) } else { None })
            .collect();
        let (confirmations, resent): (Vec<_>, Vec<_>) = outcomes
            .iter()
            .zip(&valid_until)
            .map(|(outcome, &valid_until)| match outcome {
                IssueOutcome::Issued(_) => (Confirmation::Batch, None),
                // A second request of the same user in this batch: its record is in the batch.
                IssueOutcome::Duplicate(entry) if issued.contains(&entry.issued.coupon) => (Confirmation::Batch, None),
                IssueOutcome::Duplicate(entry) if self.relay.must_resend(acknowledge, event_uid, entry) => {
                    let (event_id, issued) = (event.clone(), entry.issued.clone());
                    (Confirmation::Resent, Some(IssuedRecord { event_id, event_uid, issued, valid_until }))
                }
                _ => (Confirmation::NotRequired, None),
            })
            .unzip();
        let sent = outbox.map(|entry| self.relay.send_and_remember(event, entry));
        let resent: Vec<_> = resent.into_iter().flatten().collect();
        let resent = self.relay.resend(&resent, installation);
        tokio::spawn(async move {
            let sent = match sent {
                Some(sent) => sent.await,
                None => Ok(()),
            };
            let resent = resent.await;
            let decided = outcomes.into_iter().zip(valid_until);
            let decided = decided.map(|(outcome, valid_until)| IssueResult::Decided { outcome, valid_until });
            for ((response, decided), confirmation) in responses.into_iter().zip(decided).zip(confirmations) {
                let confirmed = match confirmation {
                    Confirmation::NotRequired => Ok(()),
                    Confirmation::Batch => sent,
                    Confirmation::Resent => resent,
                };
                let _ = response.send(confirmed.map_or(IssueResult::UnknownOutcome, |()| decided));
            }
        });
    }
}

/// Which records Kafka must confirm before the response is sent.
#[derive(Clone, Copy)]
enum Confirmation {
    NotRequired,
    /// The records of this batch.
    Batch,
    /// The record of an earlier batch, which was sent again.
    Resent,
}

fn send_all(responses: Vec<oneshot::Sender<IssueResult>>, value: impl Fn() -> IssueResult) {
    for response in responses {
        let _ = response.send(value());
    }
}

#[cfg(test)]
mod tests {
    use couponry_kafka::{KafkaSettings, Producer};
    use futures::future;
    use prometheus_client::registry::Registry;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn queue_of_unknown_event_is_removed_after_the_response() {
        let redis_store = RedisStore::connect("redis://127.0.0.1:1", "").unwrap();
        let unreachable = KafkaSettings::at("127.0.0.1:1", "coupon-issued");
        let metrics = Metrics::register(&mut Registry::default());
        let relay = Relay::start(redis_store.clone(), Producer::new(&unreachable).unwrap(), metrics.clone());
        let batchers = Batchers::new(redis_store, relay, metrics, Arc::default(), 4, 100);
        let requests = (0..60).map(async |i| {
            let event = format!("event-{}", i % 20).parse().unwrap();
            // Some arrive during the batch before them, some while their queue ends.
            time::sleep(Duration::from_millis(i * 20)).await;
            batchers.issue(&event, format!("user-{i}").parse().unwrap()).await
        });
        for response in future::join_all(requests).await {
            assert!(matches!(response, IssueResult::UnknownOutcome), "{response:?}");
        }
        let answered = Instant::now();
        while !batchers.queues.lock().unwrap().is_empty() {
            assert!(answered.elapsed() < IDLE_TIMEOUT / 2, "the queues were not removed");
            time::sleep(Duration::from_millis(10)).await;
        }
    }
}
