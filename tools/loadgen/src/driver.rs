//! Sends a workload over a fixed number of connections. Each connection sends its next request when the previous one is
//! finished and, with a rate, the next one is due. Attempts without a response are retried. A request that is
//! answered with WAIT is repeated at the time of admission.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use couponry_domain::EventName;
use rand::RngExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::client::issue;
use crate::connection::{Connection, RequestTemplate, Target};
use crate::deferred::{Deferred, DeferredRequests};
use crate::history::{Attempt, Completion, Entry, Invocation, Pairing};
use crate::outcome::Outcome;
use crate::pacer::Pacer;
use crate::progress::Progress;
use crate::workload::{UserRequest, Workload};

/// Minimum delay after WAIT: the clock of Redis may be behind this one.
const MIN_WAIT: Duration = Duration::from_millis(50);

/// Parameters of a run.
#[derive(Clone, Debug)]
pub struct Load {
    /// The issuers. The connections are distributed over them, and a retry goes to the next one.
    pub targets: Vec<Target>,
    /// The event.
    pub event: EventName,
    /// The users.
    pub workload: Workload,
    /// Maximum number of requests in progress.
    pub connections: usize,
    /// Requests per second; unlimited if not set.
    pub rate: Option<NonZeroU32>,
    /// Maximum number of attempts at a request.
    pub max_attempts: u32,
    /// Timeout of an attempt.
    pub timeout: Duration,
    /// Maximum delay before a retry; limits `Retry-After`.
    pub max_retry_delay: Duration,
    /// Maximum time that a user waits for the admission, or for more coupons.
    pub max_wait: Duration,
}

impl Load {
    /// A load with the defaults of the command line.
    #[must_use]
    pub fn new(targets: Vec<Target>, event: EventName, workload: Workload) -> Self {
        Self {
            targets,
            event,
            workload,
            connections: 64,
            rate: None,
            max_attempts: 20,
            timeout: Duration::from_secs(10),
            max_retry_delay: Duration::from_secs(5),
            max_wait: Duration::from_mins(5),
        }
    }
}

/// Sends the load. Calls `log` before each attempt is sent and when it has ended. Returns when all requests are
/// finished, when `stop` is cancelled (after waiting for the requests in progress), or when `log` fails.
///
/// # Panics
/// If the load has no target.
pub async fn drive(
    load: &Load,
    log: impl Fn(Entry) -> Result<()> + Send + Sync + 'static,
    progress: &Arc<Progress>,
    stop: &CancellationToken,
) -> Result<()> {
    assert!(!load.targets.is_empty(), "the load has no target");
    let (requests, clock) = (load.workload.requests(), Clock::start());
    let count = requests.len() as u64;
    progress.expect(count);
    let workers = Arc::new(Workers {
        template: RequestTemplate::new(&load.workload.prefix, load.event.as_str()),
        pacer: load.rate.map(|rate| Pacer::start(rate, clock.start, count)),
        load: load.clone(),
        requests,
        next_request: AtomicUsize::new(0),
        next_attempt: AtomicU64::new(0),
        deferred: DeferredRequests::default(),
        clock,
        log,
        progress: progress.clone(),
        stop: stop.clone(),
    });
    let mut tasks = JoinSet::new();
    for number in 0..load.connections.max(1) {
        tasks.spawn(workers.clone().work(number));
    }
    tasks.join_all().await.into_iter().collect()
}

/// Sends the load and returns its history.
///
/// # Panics
/// If the load has no target.
pub async fn collect_history(load: &Load, progress: &Arc<Progress>, stop: &CancellationToken) -> Vec<Attempt> {
    let collected = Arc::<Mutex<(Pairing, Vec<Attempt>)>>::default();
    let log = {
        let collected = collected.clone();
        move |entry| {
            let (pairing, attempts) = &mut *collected.lock().unwrap_or_else(PoisonError::into_inner);
            attempts.extend(pairing.add(entry));
            Ok(())
        }
    };
    drive(load, log, progress, stop).await.expect("the log does not fail");
    std::mem::take(&mut collected.lock().unwrap_or_else(PoisonError::into_inner).1)
}

/// The state which the tasks of all connections share.
struct Workers<L> {
    load: Load,
    requests: Vec<UserRequest>,
    template: RequestTemplate,
    pacer: Option<Pacer>,
    next_request: AtomicUsize,
    next_attempt: AtomicU64,
    deferred: DeferredRequests,
    clock: Clock,
    log: L,
    progress: Arc<Progress>,
    stop: CancellationToken,
}

impl<L: Fn(Entry) -> Result<()>> Workers<L> {
    async fn work(self: Arc<Self>, number: usize) -> Result<()> {
        let mut connections: Vec<Connection> = self.load.targets.iter().cloned().map(Connection::new).collect();
        while !self.stop.is_cancelled() {
            let Some(next) = self.next().await else { break };
            if let Some(is_answered) = self.send(next, &mut connections, number).await? {
                self.progress.count_request(is_answered);
            }
        }
        Ok(())
    }

    /// The next request that is due. None: all are finished, or in progress on other connections.
    async fn next(&self) -> Option<Deferred> {
        loop {
            let due = match self.deferred.take_due(self.clock.now()) {
                Ok(deferred) => return Some(deferred),
                Err(due) => due,
            };
            let index = self.next_request.fetch_add(1, Ordering::Relaxed);
            if let Some(request) = self.requests.get(index) {
                if let Some(pacer) = &self.pacer {
                    self.stop.run_until_cancelled(pacer.wait()).await?;
                }
                return Some(Deferred { request: *request, attempt: 1 });
            }
            let wait = Duration::from_micros(u64::try_from(due? - self.clock.now()).unwrap_or(0));
            self.stop.run_until_cancelled(tokio::time::sleep(wait)).await?;
        }
    }

    /// Sends a request until a final response arrives, or no attempt is left. Returns whether one has arrived, or None
    /// if the user has to wait.
    async fn send(&self, next: Deferred, connections: &mut [Connection], number: usize) -> Result<Option<bool>> {
        let Deferred { request, attempt: first } = next;
        let user = self.load.workload.user_name(request.user);
        let mut bytes = Vec::with_capacity(512);
        let last = first + self.load.max_attempts.max(1) - 1;
        for (retries, attempt) in (0..).zip(first..=last) {
            let which = (number + retries) % connections.len();
            let connection = &mut connections[which];
            self.template.write(connection.target(), request.user.into(), &mut bytes);
            let id = self.next_attempt.fetch_add(1, Ordering::Relaxed);
            (self.log)(Entry::Invoked(Invocation {
                id,
                invoked: self.clock.now(),
                user: user.clone(),
                request: request.number,
                attempt,
                target: connection.target().to_string(),
            }))?;
            let reply = issue(connection, &bytes, self.load.timeout).await;
            let (is_final, due) = (reply.is_final(), self.due(&reply.outcome));
            self.progress.count_attempt(&reply.outcome);
            (self.log)(Entry::Completed(Completion { id, finished: self.clock.now(), outcome: reply.outcome }))?;
            if let Some(due) = due {
                self.deferred.add(due, id, Deferred { request, attempt: attempt + 1 });
                return Ok(None);
            }
            if is_final {
                return Ok(Some(true));
            }
            let delay = self.retry_delay(attempt - first + 1, reply.retry_after);
            if attempt < last && self.stop.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
                break;
            }
        }
        Ok(Some(false))
    }

    /// When the user sends the request again. None: not at a known time, or too late.
    fn due(&self, outcome: &Outcome) -> Option<i64> {
        let Outcome::Answered(response) = outcome else { return None };
        let (now, at) = (self.clock.now(), response.retry_at()?.as_microsecond());
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        (at - now < micros(self.load.max_wait)).then(|| at.max(now + micros(MIN_WAIT)))
    }

    /// `Retry-After`, or exponential backoff, with jitter.
    fn retry_delay(&self, attempt: u32, retry_after: Option<Duration>) -> Duration {
        let delay = retry_after.unwrap_or_else(|| Duration::from_millis(25 << attempt.min(6)));
        delay.min(self.load.max_retry_delay).mul_f64(rand::rng().random_range(0.8..1.2))
    }
}

/// The wall clock at its start, and monotonic from then on.
pub(crate) struct Clock {
    start: Instant,
    epoch: Duration,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), epoch }
    }

    /// Microseconds since the Unix epoch.
    pub(crate) fn now(&self) -> i64 {
        i64::try_from((self.epoch + self.start.elapsed()).as_micros()).unwrap_or(i64::MAX)
    }
}
