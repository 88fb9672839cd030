//! Sends the requests of the shops. A request whose outcome is unknown is repeated with the same idempotency key, at
//! the next redeemer, until its outcome is known.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use couponry_domain::EventName;
use jiff::Timestamp;
use rand::RngExt as _;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::history::{Operation, UseCall, UseCompletion, UseEntry, UseInvocation, UseOutcome};
use super::issued_coupons::HeldCoupon;
use super::script::{self, Script};
use super::statistics::Statistics;
use crate::connection::{Connection, ExchangeError, Response, Target};
use crate::driver::Clock;

/// The duration of a reservation that expires.
const SHORT_RESERVATION: Duration = Duration::from_secs(1);
/// How long after its end a reservation or a coupon has expired, also by the clock of Postgres.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(300);
/// The longest wait for the end of a coupon's validity: the shortest validity that a manifest can have, and some time
/// to receive the coupon.
const MAX_WAIT_FOR_END: Duration = Duration::from_secs(90);
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(25);

/// Parameters of a checkout.
#[derive(Clone, Debug)]
pub struct Checkout {
    /// The redeemers. A retry goes to the next one.
    pub targets: Vec<Target>,
    /// The event.
    pub event: EventName,
    /// Decides what happens to each coupon, and is part of the idempotency keys.
    pub seed: u64,
    /// Maximum number of coupons in use at the same time.
    pub shops: usize,
    /// Maximum number of attempts at a request.
    pub max_attempts: u32,
    /// Timeout of an attempt.
    pub timeout: Duration,
    /// Maximum delay before a retry.
    pub max_retry_delay: Duration,
}

impl Checkout {
    /// A checkout with the defaults of the command line.
    #[must_use]
    pub fn new(targets: Vec<Target>, event: EventName) -> Self {
        Self {
            targets,
            event,
            seed: 0,
            shops: 16,
            max_attempts: 200,
            timeout: Duration::from_secs(5),
            max_retry_delay: Duration::from_secs(1),
        }
    }
}

/// Uses the coupons until there are no more. Calls `log` before each attempt is sent and when it has ended.
///
/// # Panics
/// If the checkout has no target.
pub async fn drive(
    checkout: Checkout,
    coupons: UnboundedReceiver<HeldCoupon>,
    log: impl Fn(&UseEntry) -> Result<()> + 'static,
) -> Result<Statistics> {
    assert!(!checkout.targets.is_empty(), "the checkout has no target");
    let shops = checkout.shops.max(1);
    let shared = Rc::new(Shared {
        checkout,
        coupons: tokio::sync::Mutex::new(coupons),
        next_attempt: Cell::new(0),
        clock: Clock::start(),
        log,
        statistics: RefCell::default(),
    });
    let local = LocalSet::new();
    let tasks: Vec<_> = (0..shops).map(|number| local.spawn_local(serve(shared.clone(), number))).collect();
    let finished = async {
        for task in tasks {
            task.await??;
        }
        anyhow::Ok(())
    };
    local.run_until(finished).await?;
    let statistics = shared.statistics.borrow().clone();
    Ok(statistics)
}

/// The state that all shops share.
struct Shared<L> {
    checkout: Checkout,
    coupons: tokio::sync::Mutex<UnboundedReceiver<HeldCoupon>>,
    next_attempt: Cell<u64>,
    clock: Clock,
    log: L,
    statistics: RefCell<Statistics>,
}

/// Serves one coupon after the other.
async fn serve<L: Fn(&UseEntry) -> Result<()>>(shared: Rc<Shared<L>>, number: usize) -> Result<()> {
    let (mut first, mut second) = (Shop::new(&shared, number), Shop::new(&shared, number + 1));
    loop {
        let next = shared.coupons.lock().await.recv().await;
        let Some(held) = next else { return Ok(()) };
        let (script, is_repeated) = script::draw(shared.checkout.seed, held.number);
        let orders = Orders { seed: shared.checkout.seed, held };
        play(script, is_repeated, &orders, &mut first, &mut second).await?;
        shared.statistics.borrow_mut().coupons += 1;
    }
}

/// The requests about one coupon.
struct Orders {
    seed: u64,
    held: HeldCoupon,
}

impl Orders {
    /// A request of the order with this letter.
    fn call(&self, operation: Operation, order: char) -> UseCall {
        let order = format!("{:x}-{}-{order}", self.seed, self.held.number);
        UseCall {
            key: format!("{order}-{}", operation.name()),
            operation,
            coupon: self.held.coupon.clone(),
            user: self.held.user.clone(),
            order,
            ttl_seconds: None,
        }
    }
}

async fn play<L: Fn(&UseEntry) -> Result<()>>(
    script: Script,
    is_repeated: bool,
    orders: &Orders,
    first: &mut Shop<L>,
    second: &mut Shop<L>,
) -> Result<()> {
    use Operation::{Redeem, Release, Reserve};
    let reserve = |order| orders.call(Reserve, order);
    let redeem = |order| orders.call(Redeem, order);
    match script {
        Script::Regular => {
            first.send(&reserve('a')).await?;
            first.send(&redeem('a')).await?;
        }
        Script::Direct => first.send(&redeem('a')).await?,
        Script::Twice => {
            first.send(&redeem('a')).await?;
            let other_key = UseCall { key: format!("{}-again", redeem('a').key), ..redeem('a') };
            first.send(&other_key).await?;
            second.send(&redeem('b')).await?;
        }
        Script::DoubleClick => {
            let call = redeem('a');
            tokio::try_join!(first.send(&call), second.send(&call))?;
        }
        Script::Contended => {
            let reserve_and_redeem = async {
                first.send(&reserve('a')).await?;
                first.send(&redeem('a')).await
            };
            let other = redeem('b');
            tokio::try_join!(reserve_and_redeem, second.send(&other))?;
        }
        Script::Released => {
            first.send(&reserve('a')).await?;
            first.send(&orders.call(Release, 'a')).await?;
            second.send(&redeem('b')).await?;
        }
        Script::Expired => {
            let ttl_seconds = u32::try_from(SHORT_RESERVATION.as_secs()).ok();
            first.send(&UseCall { ttl_seconds, ..reserve('a') }).await?;
            sleep(SHORT_RESERVATION + CLOCK_TOLERANCE).await;
            second.send(&redeem('b')).await?;
            first.send(&redeem('a')).await?;
        }
        Script::Abandoned => {
            first.send(&reserve('a')).await?;
            second.send(&reserve('b')).await?;
            second.send(&redeem('b')).await?;
        }
        Script::Late => {
            // The difference is negative if the coupon has expired.
            let remaining =
                |end: Timestamp| Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or_default();
            let remaining = orders.held.valid_until.map(remaining).filter(|remaining| *remaining <= MAX_WAIT_FOR_END);
            if let Some(remaining) = remaining {
                first.send(&reserve('a')).await?;
                sleep(remaining + CLOCK_TOLERANCE).await;
                first.send(&redeem('a')).await?;
                second.send(&redeem('b')).await?;
                first.send(&orders.call(Release, 'a')).await?;
            } else {
                first.send(&redeem('a')).await?;
            }
        }
    }
    if is_repeated {
        let call = match script {
            Script::Regular | Script::Released | Script::Abandoned | Script::Contended => reserve('a'),
            Script::Direct | Script::Twice | Script::DoubleClick | Script::Late => redeem('a'),
            Script::Expired => redeem('b'),
        };
        second.send(&call).await?;
    }
    Ok(())
}

/// A client of all redeemers, with one request at a time.
struct Shop<L> {
    shared: Rc<Shared<L>>,
    connections: Vec<Connection>,
    /// The redeemer of the next attempt.
    next: usize,
}

impl<L: Fn(&UseEntry) -> Result<()>> Shop<L> {
    fn new(shared: &Rc<Shared<L>>, number: usize) -> Self {
        let connections: Vec<_> = shared.checkout.targets.iter().cloned().map(Connection::new).collect();
        Self { shared: shared.clone(), next: number % connections.len(), connections }
    }

    /// Sends a request until its outcome is known, or no attempt is left.
    async fn send(&mut self, call: &UseCall) -> Result<()> {
        let Checkout { event, max_attempts, timeout, max_retry_delay, .. } = &self.shared.checkout;
        let mut body = json!({
            "eventId": event.as_str(), "couponKey": call.coupon, "userId": call.user.as_str(), "orderId": call.order,
        });
        if let Some(seconds) = call.ttl_seconds {
            body["ttlSeconds"] = json!(seconds);
        }
        let (path, headers) =
            (format!("/redemptions/{}", call.operation.name()), format!("idempotency-key: {}\r\n", call.key));
        let mut delay = FIRST_RETRY_DELAY;
        for _ in 0..(*max_attempts).max(1) {
            let connection = &mut self.connections[self.next];
            let request = connection.target().request("POST", &path, &headers, &body.to_string());
            let id = self.shared.next_attempt.replace(self.shared.next_attempt.get() + 1);
            (self.shared.log)(&UseEntry::Invoked(UseInvocation {
                id,
                invoked: self.shared.clock.now(),
                target: connection.target().to_string(),
                call: call.clone(),
            }))?;
            let outcome = attempt(connection, &request, *timeout).await;
            self.shared.statistics.borrow_mut().add(call.operation, &outcome);
            let is_decided = matches!(outcome, UseOutcome::Decided { .. });
            let finished = self.shared.clock.now();
            (self.shared.log)(&UseEntry::Completed(UseCompletion { id, finished, outcome }))?;
            if is_decided {
                return Ok(());
            }
            self.next = (self.next + 1) % self.connections.len();
            sleep(delay.mul_f64(rand::rng().random_range(0.8..1.2))).await;
            delay = (2 * delay).min(*max_retry_delay);
        }
        self.shared.statistics.borrow_mut().undecided += 1;
        Ok(())
    }
}

/// Sends a request once.
async fn attempt(connection: &mut Connection, request: &[u8], timeout: Duration) -> UseOutcome {
    let deadline = Instant::now() + timeout;
    match timeout_at(deadline, connection.exchange(request)).await {
        Ok(Ok(response)) => interpret(&response),
        Ok(Err(ExchangeError::NotSent(error) | ExchangeError::NoResponse(error))) => {
            UseOutcome::Unknown(format!("no response: {error}"))
        }
        Err(_) => UseOutcome::Unknown("no response: timeout".to_owned()),
    }
}

fn interpret(Response { status, body, .. }: &Response<'_>) -> UseOutcome {
    match (status, serde_json::from_slice::<Value>(body)) {
        (200 | 400..=407 | 409..=428 | 430..=499, Ok(body)) => UseOutcome::Decided { status: *status, body },
        _ => UseOutcome::Unknown(format!("status {status}: {}", String::from_utf8_lossy(body))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_final_statuses_are_decided() {
        let outcome = |status, body| interpret(&Response { status, retry_after: None, body });
        for status in [200, 400, 401, 403, 404, 409, 422] {
            assert!(matches!(outcome(status, b"{}"), UseOutcome::Decided { .. }), "{status}");
        }
        for status in [204, 302, 408, 429, 500, 502, 503, 504] {
            assert!(matches!(outcome(status, b"{}"), UseOutcome::Unknown(_)), "{status}");
        }
        assert!(matches!(outcome(200, b"{"), UseOutcome::Unknown(_)));
    }
}
