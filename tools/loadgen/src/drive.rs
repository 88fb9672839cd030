//! Lets a crowd ask, with a bounded number of connections, each sending its next request when the last one has ended and, with a
//! rate, when its time has come.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use domain::EventId;
use rand::RngExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::{Line, Target};
use crate::crowd::{Ask, Crowd};
use crate::history::Attempt;
use crate::progress::Tally;

/// What to send, and where.
#[derive(Clone, Debug)]
pub struct Load {
    /// The issuers; a connection belongs to one of them, and an attempt that failed is repeated at the next one.
    pub targets: Vec<Target>,
    /// The event that is asked for coupons.
    pub event: EventId,
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
    pub fn new(targets: Vec<Target>, event: EventId, crowd: Crowd) -> Self {
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

/// Sends the load. Every attempt goes to `attempts`; ends when all asks have ended, when `stop` is cancelled (what is
/// under way is still waited for), or when nobody receives the attempts any more.
///
/// # Panics
/// If the load has no target.
pub async fn drive(load: &Load, attempts: mpsc::Sender<Attempt>, tally: &Arc<Tally>, stop: &CancellationToken) {
    assert!(!load.targets.is_empty(), "a load needs a target");
    let crew = Arc::new(Crew {
        load: load.clone(),
        asks: load.crowd.asks(),
        next: AtomicUsize::new(0),
        clock: Clock::start(),
        attempts,
        tally: tally.clone(),
        stop: stop.clone(),
    });
    tally.expect(crew.asks.len() as u64);
    let mut workers = JoinSet::new();
    for number in 0..load.connections.max(1) {
        workers.spawn(crew.clone().work(number));
    }
    workers.join_all().await;
}

/// Sends the load and gives back its whole history.
///
/// # Panics
/// If the load has no target.
pub async fn gather(load: &Load, stop: &CancellationToken) -> Vec<Attempt> {
    let (sender, mut receiver) = mpsc::channel(1024);
    let tally = Arc::default();
    let receive = async {
        let mut history = Vec::new();
        while let Some(attempt) = receiver.recv().await {
            history.push(attempt);
        }
        history
    };
    tokio::join!(drive(load, sender, &tally, stop), receive).1
}

/// What the workers share.
struct Crew {
    load: Load,
    asks: Vec<Ask>,
    next: AtomicUsize,
    clock: Clock,
    attempts: mpsc::Sender<Attempt>,
    tally: Arc<Tally>,
    stop: CancellationToken,
}

impl Crew {
    async fn work(self: Arc<Self>, number: usize) {
        let mut lines: Vec<Line> = self.load.targets.iter().cloned().map(Line::new).collect();
        while !self.stop.is_cancelled() {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(ask) = self.asks.get(turn) else { return };
            if let Some(rate) = self.load.rate {
                let due = self.clock.start + Duration::from_micros(turn as u64 * 1_000_000 / u64::from(rate.get()));
                if self.stop.run_until_cancelled(tokio::time::sleep_until(due)).await.is_none() {
                    return;
                }
            }
            if self.settle(*ask, &mut lines, number).await.is_none() {
                return;
            }
        }
    }

    /// Asks until there is an answer or no try is left. None: nobody receives the attempts any more.
    async fn settle(&self, ask: Ask, lines: &mut [Line], number: usize) -> Option<()> {
        let user = self.load.crowd.name(ask.user);
        let body = Bytes::from(
            serde_json::json!({ "userId": user.as_str(), "eventId": self.load.event.as_str() }).to_string(),
        );
        for (count, attempt) in (0..).zip(1..=self.load.max_tries.max(1)) {
            let which = (number + count) % lines.len();
            let line = &mut lines[which];
            let invoked = self.clock.now();
            let reply = line.issue(body.clone(), self.load.deadline).await;
            let is_final = reply.is_final();
            let attempt = Attempt {
                invoked,
                finished: self.clock.now(),
                user: user.clone(),
                ask: ask.time,
                attempt,
                target: line.target().to_string(),
                outcome: reply.outcome,
            };
            self.tally.count(&attempt);
            let attempt_number = attempt.attempt;
            self.attempts.send(attempt).await.ok()?;
            if is_final {
                self.tally.settled();
                return Some(());
            }
            let pause = self.pause(attempt_number, reply.retry_after);
            if attempt_number < self.load.max_tries
                && self.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none()
            {
                break;
            }
        }
        self.tally.given_up();
        Some(())
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
