//! The load: so many connections, each with one request under way.
//!
//! In a *closed* loop each connection sends its next request when it has the answer to the last one. In an *open* loop a
//! request is due at its time, whatever became of those before it, and its latency counts from then: a server that stands
//! still is charged with everyone who would have come meanwhile ("coordinated omission").

use std::{
    cell::RefCell,
    io::Write as _,
    net::SocketAddr,
    num::NonZeroU32,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    sync::Semaphore,
    task::LocalSet,
    time::{sleep, timeout},
};

use crate::{
    client::{Answer, Line},
    sample::{Counts, Sample},
};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whom to ask, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An issuer; given several times, the connections are dealt out to them in turn.
    #[arg(long, required = true, value_name = "ADDRESS")]
    target: Vec<SocketAddr>,
    /// The event.
    #[arg(long)]
    event: String,
    /// The number of the first user.
    #[arg(long, default_value_t = 0)]
    first_user: u64,
    /// How many users there are. They ask in turn, and then anew.
    #[arg(long)]
    users: u64,
    /// By how much the number of a user is more than that of the one before. With a prime, all users ask, in another order.
    #[arg(long, default_value_t = 1)]
    stride: u64,
    /// How many requests are sent at most.
    #[arg(long, default_value_t = u64::MAX)]
    requests: u64,
    /// How many seconds requests are sent at most.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// How many connections there are.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How many requests are due in a second: an open loop. Without it, the loop is closed.
    #[arg(long)]
    rate: Option<NonZeroU32>,
}

/// What the connections share.
struct Crew {
    args: Args,
    /// Where the number of the user goes in between.
    request: (String, String),
    start: Instant,
    /// In an open loop, how many requests are due and not taken.
    due: Arc<Semaphore>,
    next: RefCell<u64>,
    counts: RefCell<Counts>,
}

/// Sends the load. Connections are there before the first request.
pub(crate) async fn run(args: Args) -> Result<Sample> {
    ensure!(args.users > 0 && args.connections > 0, "nobody asks");
    let mut lines: Vec<_> = args.target.iter().cycle().take(args.connections).copied().map(Line::new).collect();
    for line in &mut lines {
        line.connect().await.context("cannot connect")?;
    }
    let body = (r#"{"userId":"user-"#, format!(r#"","eventId":"{}"}}"#, args.event));
    let crew = Rc::new(Crew {
        request: (body.0.to_owned(), body.1),
        start: Instant::now(),
        due: Arc::new(Semaphore::new(0)),
        next: RefCell::new(0),
        counts: RefCell::default(),
        args,
    });
    let is_over = Arc::new(AtomicBool::new(false));
    let pacer = crew.args.rate.map(|rate| {
        let (due, start, is_over, requests) = (crew.due.clone(), crew.start, is_over.clone(), crew.args.requests);
        thread::spawn(move || pace(rate, start, requests, &due, &is_over))
    });
    let local = LocalSet::new();
    let workers: Vec<_> = lines.into_iter().map(|line| local.spawn_local(crew.clone().work(line))).collect();
    let everyone = async {
        for worker in workers {
            worker.await.context("a connection's task failed")?;
        }
        anyhow::Ok(())
    };
    local.run_until(everyone).await?;
    let took = crew.start.elapsed();
    is_over.store(true, Ordering::Relaxed);
    let due = pacer.map(|pacer| pacer.join().unwrap_or_default()).unwrap_or_default();
    let unsent = due.saturating_sub(*crew.next.borrow());
    Ok(crew.counts.borrow().sample(took, unsent))
}

/// Says when a request is due. A thread of its own: the timers of tokio know milliseconds only. How many were due.
fn pace(rate: NonZeroU32, start: Instant, requests: u64, due: &Semaphore, is_over: &AtomicBool) -> u64 {
    let mut said = 0;
    while !is_over.load(Ordering::Relaxed) && said < requests {
        let by_now = number_due(rate, start.elapsed()).min(requests);
        if by_now > said {
            due.add_permits(usize::try_from(by_now - said).unwrap_or_default());
            said = by_now;
        }
        let next = time_due(rate, said);
        thread::sleep(next.saturating_sub(start.elapsed()).min(Duration::from_millis(20)));
    }
    said
}

/// How many requests are due after so long.
fn number_due(rate: NonZeroU32, elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos() * u128::from(rate.get()) / 1_000_000_000).unwrap_or(u64::MAX) + 1
}

/// When the request of this number is due.
fn time_due(rate: NonZeroU32, number: u64) -> Duration {
    Duration::from_nanos(number * 1_000_000_000 / u64::from(rate.get()))
}

impl Crew {
    async fn work(self: Rc<Self>, mut line: Line) {
        let end = Duration::from_secs_f64(self.args.seconds);
        let mut request = Vec::with_capacity(512);
        loop {
            if self.args.rate.is_some() {
                let Some(left) = end.checked_sub(self.start.elapsed()) else { return };
                let Ok(Ok(permit)) = timeout(left, self.due.acquire()).await else { return };
                permit.forget();
            }
            let number = self.next.replace_with(|next| *next + 1);
            let elapsed = self.start.elapsed();
            if number >= self.args.requests || elapsed >= end {
                // It was not sent after all.
                self.next.replace_with(|next| *next - 1);
                return;
            }
            let due = self.args.rate.map_or(elapsed, |rate| time_due(rate, number));
            self.write(number, &mut request);
            let answer = timeout(TIMEOUT, line.exchange(&request)).await.ok().and_then(Result::ok);
            self.counts.borrow_mut().count(answer, self.start.elapsed().saturating_sub(due));
            if answer.is_none_or(|answer| answer == Answer::Other) {
                // What fails at once must not keep the machine busy.
                sleep(Duration::from_millis(10)).await;
            }
        }
    }

    fn write(&self, number: u64, request: &mut Vec<u8>) {
        let user = (self.args.first_user + number * self.args.stride % self.args.users).to_string();
        let (before, after) = &self.request;
        let length = before.len() + user.len() + after.len();
        request.clear();
        write!(
            request,
            "POST /coupons/issue HTTP/1.1\r\nhost: issuer\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n\
             {before}{user}{after}"
        )
        .expect("memory takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_equal_distances_from_the_start_on() {
        let rate = NonZeroU32::new(1000).unwrap();
        assert_eq!(time_due(rate, 0), Duration::ZERO);
        assert_eq!(time_due(rate, 1500), Duration::from_millis(1500));
        assert_eq!(number_due(rate, Duration::ZERO), 1);
        assert_eq!(number_due(rate, Duration::from_micros(999)), 1);
        assert_eq!(number_due(rate, Duration::from_millis(1500)), 1501);
    }
}
