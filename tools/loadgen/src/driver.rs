//! Sends a workload over a fixed number of connections. Each connection sends its next request when the previous one is
//! finished and, with a rate, the next one is due. Attempts without a response are retried.

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
use crate::history::{Attempt, Completion, Entry, Invocation, Pairing};
use crate::pacer::Pacer;
use crate::progress::Progress;
use crate::workload::{UserRequest, Workload};

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
    clock: Clock,
    log: L,
    progress: Arc<Progress>,
    stop: CancellationToken,
}

impl<L: Fn(Entry) -> Result<()>> Workers<L> {
    async fn work(self: Arc<Self>, number: usize) -> Result<()> {
        let mut connections: Vec<Connection> = self.load.targets.iter().cloned().map(Connection::new).collect();
        while !self.stop.is_cancelled() {
            let index = self.next_request.fetch_add(1, Ordering::Relaxed);
            let Some(request) = self.requests.get(index) else { break };
            if let Some(pacer) = &self.pacer
                && self.stop.run_until_cancelled(pacer.wait()).await.is_none()
            {
                break;
            }
            let is_answered = self.send(*request, &mut connections, number).await?;
            self.progress.count_request(is_answered);
        }
        Ok(())
    }

    /// Sends a request until a final response arrives, or no attempt is left. Returns whether one has arrived.
    async fn send(&self, request: UserRequest, connections: &mut [Connection], number: usize) -> Result<bool> {
        let user = self.load.workload.user_name(request.user);
        let mut bytes = Vec::with_capacity(512);
        for (retries, attempt) in (0..).zip(1..=self.load.max_attempts.max(1)) {
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
            let is_final = reply.is_final();
            self.progress.count_attempt(&reply.outcome);
            (self.log)(Entry::Completed(Completion { id, finished: self.clock.now(), outcome: reply.outcome }))?;
            if is_final {
                return Ok(true);
            }
            let delay = self.retry_delay(attempt, reply.retry_after);
            if attempt < self.load.max_attempts
                && self.stop.run_until_cancelled(tokio::time::sleep(delay)).await.is_none()
            {
                break;
            }
        }
        Ok(false)
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
