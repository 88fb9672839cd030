//! The command `loadgen measure`.
//!
//! In a closed loop, each connection sends its next request when it has the response to the previous one. In an open
//! loop, a request is due at its time whatever became of the previous ones, and its latency counts from then. So a
//! server that stalls is charged for all requests that were due meanwhile ("coordinated omission").

use std::cell::RefCell;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use couponry_domain::EventName;
use couponry_loadgen::connection::{Connection, RequestTemplate, Response, Target};
use couponry_loadgen::latencies::Latencies;
use couponry_loadgen::pacer::Pacer;
use couponry_output::Stdout;
use serde_json::{Value, json};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Issuer, as http://host:port. Repeatable; the connections are distributed over all issuers.
    #[arg(long = "target", required = true, value_name = "URL")]
    targets: Vec<Target>,
    /// Name of the event.
    #[arg(long)]
    event: EventName,
    /// Number of the first user.
    #[arg(long, default_value_t = 0)]
    first_user: u64,
    /// Number of users. After all users have sent a request, they start again.
    #[arg(long)]
    users: u64,
    /// Difference between the numbers of consecutive users. With a prime number, all users send a request, in mixed
    /// order.
    #[arg(long, default_value_t = 1)]
    stride: u64,
    /// Maximum number of requests.
    #[arg(long, default_value_t = u64::MAX)]
    requests: u64,
    /// Maximum duration in seconds.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Request the view of the event (GET /coupons/{event}), as browsers do, instead of coupons.
    #[arg(long)]
    views: bool,
    /// Number of connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests per second, in an open loop. Without it, the loop is closed.
    #[arg(long)]
    rate: Option<NonZeroU32>,
}

/// The state which all connections share.
struct Workers {
    args: Args,
    template: RequestTemplate,
    start: Instant,
    pacer: Option<Pacer>,
    next: RefCell<u64>,
    counts: RefCell<Counts>,
}

pub(crate) async fn measure(args: Args) -> Result<ExitCode> {
    ensure!(args.users > 0 && args.connections > 0, "--users and --connections must not be 0");
    let mut connections: Vec<_> =
        args.targets.iter().cycle().take(args.connections).cloned().map(Connection::new).collect();
    for connection in &mut connections {
        connection.connect().await.with_context(|| format!("cannot connect to {}", connection.target()))?;
    }
    let start = Instant::now();
    let workers = Rc::new(Workers {
        template: RequestTemplate::new("user-", args.event.as_str()),
        start,
        pacer: args.rate.map(|rate| Pacer::start(rate, start, args.requests)),
        next: RefCell::new(0),
        counts: RefCell::default(),
        args,
    });
    let local = LocalSet::new();
    let tasks: Vec<_> =
        connections.into_iter().map(|connection| local.spawn_local(workers.clone().work(connection))).collect();
    let finished = async {
        for task in tasks {
            task.await.context("the task of a connection failed")?;
        }
        anyhow::Ok(())
    };
    local.run_until(finished).await?;
    let duration = start.elapsed();
    let workers = Rc::into_inner(workers).context("a task is still running")?;
    let due = workers.pacer.map_or(0, Pacer::stop);
    let unsent = due.saturating_sub(workers.next.into_inner());
    writeln!(Stdout, "{}", workers.counts.into_inner().to_json(duration, unsent))?;
    Ok(ExitCode::SUCCESS)
}

impl Workers {
    async fn work(self: Rc<Self>, mut connection: Connection) {
        let end = Duration::from_secs_f64(self.args.seconds);
        let mut request = Vec::with_capacity(512);
        loop {
            if let Some(pacer) = &self.pacer {
                let Some(time_left) = end.checked_sub(self.start.elapsed()) else { return };
                if timeout(time_left, pacer.wait()).await.is_err() {
                    return;
                }
            }
            let number = *self.next.borrow();
            let elapsed = self.start.elapsed();
            if number >= self.args.requests || elapsed >= end {
                return;
            }
            self.next.replace(number + 1);
            let due = self.pacer.as_ref().map_or(elapsed, |pacer| pacer.due_after(number));
            let user = self.args.first_user + number * self.args.stride % self.args.users;
            if self.args.views {
                request = connection.target().request("GET", &format!("/coupons/{}", self.args.event), "", "");
            } else {
                self.template.write(connection.target(), user, &mut request);
            }
            let response = timeout(TIMEOUT, connection.exchange(&request)).await;
            let result = response.ok().and_then(Result::ok).as_ref().map_or(Counted::Failed, Counted::from);
            self.counts.borrow_mut().add(result, self.start.elapsed().saturating_sub(due));
            if matches!(result, Counted::Other | Counted::Failed) {
                // Immediate failures must not use up the CPU.
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// A response as it is counted. The body is not parsed, to keep the cost of the client low.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    /// A coupon was issued.
    Issued,
    /// Status 200, but no coupon was issued.
    NotIssued,
    /// Status 503 with `Retry-After`.
    Unavailable,
    /// Any other response.
    Other,
    /// No response.
    Failed,
}

impl From<&Response<'_>> for Counted {
    fn from(response: &Response<'_>) -> Self {
        match response.status {
            200 if response.body.starts_with(br#"{"success":true"#) => Self::Issued,
            200 => Self::NotIssued,
            503 if response.retry_after.is_some() => Self::Unavailable,
            _ => Self::Other,
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    issued: u64,
    not_issued: u64,
    unavailable: u64,
    other: u64,
    failed: u64,
    /// Of the responses with status 200.
    answered_latency: Latencies,
    /// Of the responses with status 503.
    unavailable_latency: Latencies,
}

impl Counts {
    fn add(&mut self, counted: Counted, latency: Duration) {
        let (count, latencies) = match counted {
            Counted::Issued => (&mut self.issued, Some(&mut self.answered_latency)),
            Counted::NotIssued => (&mut self.not_issued, Some(&mut self.answered_latency)),
            Counted::Unavailable => (&mut self.unavailable, Some(&mut self.unavailable_latency)),
            Counted::Other => (&mut self.other, None),
            Counted::Failed => (&mut self.failed, None),
        };
        *count += 1;
        if let Some(latencies) = latencies {
            latencies.record(latency);
        }
    }

    /// Counts, and latencies in microseconds. `unsent` requests were due, but all connections were busy.
    fn to_json(&self, duration: Duration, unsent: u64) -> Value {
        let quantiles = |latencies: &Latencies| {
            let at = |quantile| latencies.at(quantile);
            json!({"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": latencies.max()})
        };
        json!({
            "seconds": duration.as_secs_f64(),
            "issued": self.issued,
            "notIssued": self.not_issued,
            "unavailable": self.unavailable,
            "other": self.other,
            "failed": self.failed,
            "unsent": unsent,
            "answeredLatency": quantiles(&self.answered_latency),
            "unavailableLatency": quantiles(&self.unavailable_latency),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_counted_by_status_and_body() {
        let counted = |status, retry_after: Option<Duration>, body: &str| {
            Counted::from(&Response { status, retry_after, body: body.as_bytes() })
        };
        assert_eq!(counted(200, None, r#"{"success":true,"reason":null}"#), Counted::Issued);
        assert_eq!(counted(200, None, r#"{"success":false,"reason":"SOLD_OUT"}"#), Counted::NotIssued);
        assert_eq!(counted(503, Some(Duration::from_secs(1)), "{}"), Counted::Unavailable);
        assert_eq!(counted(503, None, "{}"), Counted::Other);
        assert_eq!(counted(404, None, "{}"), Counted::Other);
    }
}
