//! One queue of requests for each event: the requests that arrive during a call to Redis are collected for the next
//! call. Without load a request is processed at once; under load the batches grow.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use couponry_domain::{EventName, UserId};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time,
};

/// The queue of an event is removed after this time without requests.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// Where the results of a batch are sent to, in the order of its users.
pub(crate) type Responses<R> = Vec<oneshot::Sender<R>>;

/// What is done with the requests of an event.
pub(crate) trait BatchProcessor: Clone + Send + Sync + 'static {
    /// The result of a request.
    type Result: Send;

    /// Processes the requests of these users together. Returns whether the event exists, or None if that is unknown.
    fn process(
        &self,
        event: &EventName,
        users: Vec<UserId>,
        responses: Responses<Self::Result>,
    ) -> impl Future<Output = Option<bool>> + Send;
}

/// A request that has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueError {
    /// The queue is full: the request was not processed.
    Full,
    /// The request was dropped, perhaps while it was processed.
    Dropped,
}

struct Request<R> {
    user: UserId,
    response: oneshot::Sender<R>,
}

type Queues<R> = Mutex<HashMap<EventName, mpsc::Sender<Request<R>>>>;

/// The queues of all events.
pub(crate) struct EventQueues<P: BatchProcessor> {
    processor: P,
    max_batch: usize,
    max_queued_requests: usize,
    /// The runtime that processes the queues. On that of the requests, each call to Redis would wait behind all
    /// requests.
    runtime: Handle,
    queues: Arc<Queues<P::Result>>,
}

impl<P: BatchProcessor> EventQueues<P> {
    /// Queues that are processed on the current runtime, each with at most `max_queued_requests`.
    pub(crate) fn new(processor: P, max_batch: usize, max_queued_requests: u32) -> Self {
        let max_queued_requests = usize::try_from(max_queued_requests).unwrap_or(usize::MAX);
        Self { processor, max_batch, max_queued_requests, runtime: Handle::current(), queues: Arc::default() }
    }

    /// Waits for the result of a request.
    pub(crate) async fn request(&self, event: &EventName, user: UserId) -> Result<P::Result, QueueError> {
        let (response, receiver) = oneshot::channel();
        let mut request = Request { user, response };
        loop {
            match self.queue(event).try_send(request) {
                Ok(()) => break,
                Err(mpsc::error::TrySendError::Full(_)) => return Err(QueueError::Full),
                // The task of the queue ended in between: the next iteration creates another queue.
                Err(mpsc::error::TrySendError::Closed(rejected)) => request = rejected,
            }
        }
        receiver.await.map_err(|_| QueueError::Dropped)
    }

    fn queue(&self, event: &EventName) -> mpsc::Sender<Request<P::Result>> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(event).filter(|queue| !queue.is_closed()) {
            return queue.clone();
        }
        let (queue, requests) = mpsc::channel(self.max_queued_requests);
        queues.insert(event.clone(), queue.clone());
        let (processor, max_batch) = (self.processor.clone(), self.max_batch);
        self.runtime.spawn(run(processor, max_batch, event.clone(), requests, self.queues.clone()));
        queue
    }
}

/// Processes the requests of one event until the queue is idle. The queue of an event that is not known to exist ends
/// as soon as it is empty, so that requests with random names do not accumulate memory, not even during an outage of
/// Redis.
async fn run<P: BatchProcessor>(
    processor: P,
    max_batch: usize,
    event: EventName,
    mut requests: mpsc::Receiver<Request<P::Result>>,
    queues: Arc<Queues<P::Result>>,
) {
    let mut batch = Vec::new();
    let mut exists = false;
    loop {
        let received = time::timeout(IDLE_TIMEOUT, requests.recv_many(&mut batch, max_batch)).await;
        if received.is_ok() {
            exists = process(&processor, &event, &mut batch).await.unwrap_or(exists);
        }
        // A second queue may only be created once this one is empty, otherwise more requests than the limit could
        // wait.
        if received.is_err() || (!exists && requests.is_empty()) {
            requests.close();
            // Requests that were queued before the close are processed as well.
            while requests.recv_many(&mut batch, max_batch).await > 0 {
                process(&processor, &event, &mut batch).await;
            }
            let mut queues = queues.lock().unwrap_or_else(PoisonError::into_inner);
            if queues.get(&event).is_some_and(mpsc::Sender::is_closed) {
                queues.remove(&event);
            }
            return;
        }
    }
}

/// Drains `batch`.
async fn process<P: BatchProcessor>(
    processor: &P,
    event: &EventName,
    batch: &mut Vec<Request<P::Result>>,
) -> Option<bool> {
    // The request of a client that has disconnected is dropped; the client can retry.
    batch.retain(|request| !request.response.is_closed());
    if batch.is_empty() {
        return None;
    }
    let (users, responses) = batch.drain(..).map(|request| (request.user, request.response)).unzip();
    processor.process(event, users, responses).await
}

#[cfg(test)]
mod tests {
    use futures::future;
    use tokio::time::Instant;

    use super::*;

    /// Returns the number of users of the batch; does not know whether the event exists.
    #[derive(Clone)]
    struct Count;

    impl BatchProcessor for Count {
        type Result = usize;

        async fn process(&self, _: &EventName, users: Vec<UserId>, responses: Responses<usize>) -> Option<bool> {
            time::sleep(Duration::from_millis(30)).await;
            assert!(!users.contains(&user("panic")), "this user has none");
            for response in responses {
                let _ = response.send(users.len());
            }
            None
        }
    }

    fn user(id: &str) -> UserId {
        id.parse().unwrap()
    }

    #[tokio::test]
    async fn requests_during_a_call_are_collected_for_the_next_one() {
        let (queues, event) = (EventQueues::new(Count, 4, 100), "event".parse().unwrap());
        let first = queues.request(&event, user("first"));
        let others = async {
            time::sleep(Duration::from_millis(5)).await;
            future::join_all((0..6).map(|i| queues.request(&event, user(&format!("user-{i}"))))).await
        };
        let (first, others) = future::join(first, others).await;
        let sizes: Vec<usize> = others.into_iter().map(Result::unwrap).collect();
        assert_eq!((first, sizes), (Ok(1), vec![4, 4, 4, 4, 2, 2]));
    }

    #[tokio::test]
    async fn queue_of_unknown_event_is_removed_after_the_response() {
        let queues = EventQueues::new(Count, 4, 100);
        let requests = (0..60).map(async |i| {
            let event = format!("event-{}", i % 20).parse().unwrap();
            // Some arrive during the batch before them, some while their queue ends.
            time::sleep(Duration::from_millis(i * 20)).await;
            queues.request(&event, user(&format!("user-{i}"))).await
        });
        for result in future::join_all(requests).await {
            assert!(result.is_ok(), "{result:?}");
        }
        let answered = Instant::now();
        while !queues.queues.lock().unwrap().is_empty() {
            assert!(answered.elapsed() < IDLE_TIMEOUT / 2, "the queues were not removed");
            time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn queue_is_replaced_after_a_panic() {
        let (queues, event) = (EventQueues::new(Count, 4, 100), "event".parse().unwrap());
        assert_eq!(queues.request(&event, user("panic")).await, Err(QueueError::Dropped));
        assert_eq!(queues.request(&event, user("other")).await, Ok(1));
    }

    #[tokio::test]
    async fn request_to_a_full_queue_is_refused() {
        let (queues, event) = (EventQueues::new(Count, 1, 1), "event".parse().unwrap());
        let results = future::join_all((0..5).map(|i| queues.request(&event, user(&format!("user-{i}"))))).await;
        assert!(results.contains(&Ok(1)) && results.contains(&Err(QueueError::Full)), "{results:?}");
    }
}
