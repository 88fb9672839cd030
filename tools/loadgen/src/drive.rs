//! Lets a crowd ask, with a bounded number of connections, each sending its next request when the last one has ended and, with a
//! rate, when its time has come.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use bytes::Bytes;
use couponry_domain::EventName;
use rand::RngExt;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::{Line, Target};
use crate::crowd::{Ask, Crowd};
use crate::history::{Attempt, End, Entry, Invocation, Pairing};
use crate::progress::Tally;

/// What to send, and where.
#[derive(Clone, Debug)]
pub struct Load {
    /// The issuers; a connection belongs to one of them, and an attempt that failed is repeated at the next one.
    pub targets: Vec<Target>,
    /// The event that is asked for coupons.
    pub event: EventName,
    /// Who asks.
    pub crowd: Crowd,
    /// How many requests are under way at the same time.
    pub connections: usize,
    /// How many asks a second are sent at most; without it, as many as are answered.
    pub rate: Option<NonZeroU32>,
    /// How often an ask without an answer is sent, in all.
    pub max_tries: u32,
    /// How long one attempt may take.
    pub deadline: Duration,
    /// The longest pause before an attempt is repeated, whatever `Retry-After` says.
    pub longest_pause: Duration,
}

impl Load {
    /// A load with the defaults of the program.
    #[must_use]
    pub fn new(targets: Vec<Target>, event: EventName, crowd: Crowd) -> Self {
        Self {
            targets,
            event,
            crowd,
            connections: 64,
            rate: None,
            max_tries: 20,
            deadline: Duration::from_secs(10),
            longest_pause: Duration::from_secs(5),
        }
    }
}

/// Sends the load. Every request goes to `log` before it is sent and when it has ended. Ends when all asks have ended, when
/// `stop` is cancelled (what is under way is still waited for), or when `log` fails.
///
/// # Panics
/// If the load has no target.
pub async fn drive(
    load: &Load,
    log: impl Fn(Entry) -> Result<()> + Send + Sync + 'static,
    tally: &Arc<Tally>,
    stop: &CancellationToken,
) -> Result<()> {
    assert!(!load.targets.is_empty(), "a load needs a target");
    let crew = Arc::new(Crew {
        load: load.clone(),
        asks: load.crowd.asks(),
        next: AtomicUsize::new(0),
        requests: AtomicU64::new(0),
        clock: Clock::start(),
        log,
        tally: tally.clone(),
        stop: stop.clone(),
    });
    tally.expect(crew.asks.len() as u64);
    let mut workers = JoinSet::new();
    for number in 0..load.connections.max(1) {
        workers.spawn(crew.clone().work(number));
    }
    workers.join_all().await.into_iter().collect()
}

/// Sends the load and gives back its whole history.
///
/// # Panics
/// If the load has no target.
pub async fn gather(load: &Load, stop: &CancellationToken) -> Vec<Attempt> {
    gather_counted(load, &Arc::default(), stop).await
}

/// As [`gather`], with a tally that others may look at meanwhile.
///
/// # Panics
/// If the load has no target.
pub async fn gather_counted(load: &Load, tally: &Arc<Tally>, stop: &CancellationToken) -> Vec<Attempt> {
    let gathered = Arc::<Mutex<(Pairing, Vec<Attempt>)>>::default();
    let log = {
        let gathered = gathered.clone();
        move |entry| {
            let (pairing, attempts) = &mut *gathered.lock().unwrap_or_else(PoisonError::into_inner);
            attempts.extend(pairing.take(entry));
            Ok(())
        }
    };
    drive(load, log, tally, stop).await.expect("memory takes everything");
    std::mem::take(&mut gathered.lock().unwrap_or_else(PoisonError::into_inner).1)
}

/// What the workers share.
struct Crew<L> {
    load: Load,
    asks: Vec<Ask>,
    next: AtomicUsize,
    requests: AtomicU64,
    clock: Clock,
    log: L,
    tally: Arc<Tally>,
    stop: CancellationToken,
}

impl<L: Fn(Entry) -> Result<()>> Crew<L> {
    async fn work(self: Arc<Self>, number: usize) -> Result<()> {
        let mut lines: Vec<Line> = self.load.targets.iter().cloned().map(Line::new).collect();
        while !self.stop.is_cancelled() {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(ask) = self.asks.get(turn) else { break };
            if let Some(rate) = self.load.rate {
                let due = self.clock.start + Duration::from_micros(turn as u64 * 1_000_000 / u64::from(rate.get()));
                if self.stop.run_until_cancelled(tokio::time::sleep_until(due)).await.is_none() {
                    break;
                }
            }
            self.settle(*ask, &mut lines, number).await?;
        }
        Ok(())
    }

    /// Asks until there is an answer or no try is left.
    async fn settle(&self, ask: Ask, lines: &mut [Line], number: usize) -> Result<()> {
        let user = self.load.crowd.name(ask.user);
        let body = Bytes::from(
            serde_json::json!({ "userId": user.as_str(), "eventId": self.load.event.as_str() }).to_string(),
        );
        for (count, attempt) in (0..).zip(1..=self.load.max_tries.max(1)) {
            let which = (number + count) % lines.len();
            let line = &mut lines[which];
            let id = self.requests.fetch_add(1, Ordering::Relaxed);
            (self.log)(Entry::Invoked(Invocation {
                id,
                invoked: self.clock.now(),
                user: user.clone(),
                ask: ask.time,
                attempt,
                target: line.target().to_string(),
            }))?;
            let reply = line.issue(body.clone(), self.load.deadline).await;
            let is_final = reply.is_final();
            self.tally.count(&reply.outcome);
            (self.log)(Entry::Ended(End { id, finished: self.clock.now(), outcome: reply.outcome }))?;
            if is_final {
                self.tally.settled();
                return Ok(());
            }
            let pause = self.pause(attempt, reply.retry_after);
            if attempt < self.load.max_tries && self.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none()
            {
                break;
            }
        }
        self.tally.given_up();
        Ok(())
    }

    /// What the issuer asked for; else longer with every attempt. Not all at the same moment.
    fn pause(&self, attempt: u32, retry_after: Option<Duration>) -> Duration {
        let wanted = retry_after.unwrap_or_else(|| Duration::from_millis(25 << attempt.min(6)));
        wanted.min(self.load.longest_pause).mul_f64(rand::rng().random_range(0.8..1.2))
    }
}

/// The wall clock at its start, which from then on only goes forward.
struct Clock {
    start: Instant,
    epoch: Duration,
}

impl Clock {
    fn start() -> Self {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), epoch }
    }

    /// Microseconds since the Unix epoch.
    fn now(&self) -> i64 {
        i64::try_from((self.epoch + self.start.elapsed()).as_micros()).unwrap_or(i64::MAX)
    }
}
