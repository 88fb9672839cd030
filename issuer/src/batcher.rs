//! Many requests, one call to Redis: while a call is under way, the requests that arrive are collected for the next. Under no
//! load a request goes at once; under load the batches grow by themselves.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use couponry_domain::{EventName, UserId, code::CouponCode};
use couponry_redis::{Acknowledge, IssueReply, Outcome, Stock};
use tokio::{
    sync::{mpsc, oneshot},
    time,
};

use crate::{metrics::Metrics, relay::Relay, sightings::Sightings};

/// An event that nobody asked for so long needs no task.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// What the user is told.
    Told(Outcome),
    /// There is no such event.
    UnknownEvent,
    /// Nobody knows: the coupon may have been issued. Asking again tells.
    UnknownOutcome,
    /// Too many requests are waiting: this one was not looked at.
    Overloaded,
}

struct Request {
    user: UserId,
    answer: oneshot::Sender<Answer>,
}

/// One queue of requests for each event that is asked for.
pub(crate) struct Batchers {
    batcher: Batcher,
    queues: Arc<Queues>,
    max_queued_requests: usize,
}

type Queues = Mutex<HashMap<EventName, mpsc::Sender<Request>>>;

#[derive(Clone)]
struct Batcher {
    stock: Stock,
    relay: Relay,
    metrics: Metrics,
    sightings: Arc<Sightings>,
    max_batch: usize,
}

impl Batchers {
    pub(crate) fn new(
        stock: Stock,
        relay: Relay,
        metrics: Metrics,
        sightings: Arc<Sightings>,
        max_batch: usize,
        max_queued_requests: u32,
    ) -> Self {
        let max_queued_requests = usize::try_from(max_queued_requests).unwrap_or(usize::MAX);
        let batcher = Batcher { stock, relay, metrics, sightings, max_batch };
        Self { batcher, queues: Arc::default(), max_queued_requests }
    }

    /// Asks for `user`'s coupon.
    pub(crate) async fn ask(&self, event: &EventName, user: UserId) -> Answer {
        let (answer, answered) = oneshot::channel();
        let mut request = Request { user, answer };
        loop {
            match self.queue(event).try_send(request) {
                Ok(()) => break,
                Err(mpsc::error::TrySendError::Full(_)) => return Answer::Overloaded,
                // Its task ended between the two steps: the next queue has another.
                Err(mpsc::error::TrySendError::Closed(back)) => request = back,
            }
        }
        answered.await.unwrap_or(Answer::UnknownOutcome)
    }

    fn queue(&self, event: &EventName) -> mpsc::Sender<Request> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        match queues.entry(event.clone()) {
            Entry::Occupied(entry) if !entry.get().is_closed() => entry.get().clone(),
            entry => {
                let (queue, requests) = mpsc::channel(self.max_queued_requests);
                entry.insert_entry(queue.clone());
                tokio::spawn(run(self.batcher.clone(), event.clone(), requests, self.queues.clone()));
                queue
            }
        }
    }
}

/// Serves one event until nobody asks for it any more. An event that was never known to exist costs nothing once its requests
/// are answered, also while Redis is away: anyone can think of names.
async fn run(batcher: Batcher, event: EventName, mut requests: mpsc::Receiver<Request>, queues: Arc<Queues>) {
    let mut batch = Vec::new();
    let mut known = false;
    loop {
        let received = time::timeout(IDLE_TIMEOUT, requests.recv_many(&mut batch, batcher.max_batch)).await;
        if received.is_ok() {
            known = batcher.serve(&event, &mut batch, known).await;
        }
        // While requests wait, there is no second queue: it would let more of them wait than may.
        if received.is_err() || (!known && requests.is_empty()) {
            requests.close();
            // Whoever got in before the close is served as well.
            while requests.recv_many(&mut batch, batcher.max_batch).await > 0 {
                batcher.serve(&event, &mut batch, known).await;
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
    /// Answers the requests of `batch`, and leaves it empty. Whether there is such an event, as far as one knows: if nothing
    /// new is learned, `known`.
    async fn serve(&self, event: &EventName, batch: &mut Vec<Request>, known: bool) -> bool {
        // A client that left needs no coupon; it can come back.
        batch.retain(|request| !request.answer.is_closed());
        if batch.is_empty() {
            return known;
        }
        let (users, answers): (Vec<_>, Vec<_>) = batch.drain(..).map(|request| (request.user, request.answer)).unzip();
        #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
        self.metrics.batch_users.observe(users.len() as f64);
        match self.stock.issue(event, &users).await {
            Ok(Some(reply)) => {
                couponry_failpoint::crash("issuer.after-lua");
                self.sightings.saw(event);
                self.answer(event, &users, answers, reply);
                true
            }
            Ok(None) => {
                let has_vanished = self.sightings.saw_lately(event);
                tell_all(
                    answers,
                    || if has_vanished { Answer::Told(Outcome::Unverified) } else { Answer::UnknownEvent },
                );
                has_vanished
            }
            Err(error) => {
                tracing::warn!(%error, %event, users = users.len(), "the outcome of a batch is unknown");
                tell_all(answers, || Answer::UnknownOutcome);
                known
            }
        }
    }

    fn answer(&self, event: &EventName, users: &[UserId], answers: Vec<oneshot::Sender<Answer>>, reply: IssueReply) {
        let IssueReply { event_uid, acknowledge, outcomes, outbox } = reply;
        if acknowledge == Acknowledge::Redis {
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                let _ = answer.send(Answer::Told(outcome));
            }
            if let Some(entry) = outbox {
                drop(self.relay.publish(event, entry));
            }
            return;
        }
        let issued: HashSet<&CouponCode> = outcomes
            .iter()
            .filter_map(|outcome| if let Outcome::Issued(holding) = outcome { Some(&holding.coupon) } else { None })
            .collect();
        let (waiting, again): (Vec<_>, Vec<_>) = users
            .iter()
            .zip(&outcomes)
            .map(|(user, outcome)| match outcome {
                Outcome::Issued(_) => (Wait::Batch, None),
                // The same user, a moment later: one record for both.
                Outcome::Duplicate(holding) if issued.contains(&holding.coupon) => (Wait::Batch, None),
                Outcome::Duplicate(holding) if self.relay.must_confirm(acknowledge, event_uid, holding) => {
                    (Wait::Again, Some(holding.record(event, event_uid, user)))
                }
                _ => (Wait::No, None),
            })
            .unzip();
        let published = outbox.map(|entry| self.relay.publish_confirmed(event, entry));
        let again: Vec<_> = again.into_iter().flatten().collect();
        let again = self.relay.confirm(&again);
        tokio::spawn(async move {
            let published = match published {
                Some(published) => published.await,
                None => Ok(()),
            };
            let again = again.await;
            for ((answer, outcome), waiting) in answers.into_iter().zip(outcomes).zip(waiting) {
                let confirmed = match waiting {
                    Wait::No => Ok(()),
                    Wait::Batch => published,
                    Wait::Again => again,
                };
                let _ = answer.send(confirmed.map_or(Answer::UnknownOutcome, |()| Answer::Told(outcome)));
            }
        });
    }
}

/// What must be in Kafka before an answer is given.
#[derive(Clone, Copy)]
enum Wait {
    No,
    /// What this call issued.
    Batch,
    /// What an earlier call issued.
    Again,
}

fn tell_all(answers: Vec<oneshot::Sender<Answer>>, what: impl Fn() -> Answer) {
    for answer in answers {
        let _ = answer.send(what());
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
    async fn names_that_nobody_knows_cost_nothing_after_the_answer() {
        let stock = Stock::connect("redis://127.0.0.1:1", "").unwrap();
        let nowhere = KafkaSettings::at("127.0.0.1:1", "coupon-issued");
        let metrics = Metrics::register(&mut Registry::default());
        let relay = Relay::start(stock.clone(), Producer::new(&nowhere).unwrap(), metrics.clone());
        let batchers = Batchers::new(stock, relay, metrics, Arc::default(), 4, 100);
        let asked = (0..60).map(async |i| {
            let event = format!("event-{}", i % 20).parse().unwrap();
            // Some while the batch before them is under way, some while their queue ends.
            time::sleep(Duration::from_millis(i * 20)).await;
            batchers.ask(&event, format!("user-{i}").parse().unwrap()).await
        });
        for answer in future::join_all(asked).await {
            assert!(matches!(answer, Answer::UnknownOutcome), "{answer:?}");
        }
        let asked = Instant::now();
        while !batchers.queues.lock().unwrap().is_empty() {
            assert!(asked.elapsed() < IDLE_TIMEOUT / 2, "queues wait for more");
            time::sleep(Duration::from_millis(10)).await;
        }
    }
}
