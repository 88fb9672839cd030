//! A round: a new event, users and shops, faults one after the other, and the check.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::event::{Event, Events};
use super::fault::{Fault, Kind};
use super::installation::Installation;
use super::load::{self, CALM_PERIOD, Effects, Load, Shops, Workload};
use super::outage;
use super::rng::Rng;
use super::statistics::Statistics;
use super::voids::Voids;

/// The shortest validity that a manifest can have.
const SHORT_VALIDITY: &str = "PT1M";

/// Parameters of a round.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) number: u64,
    pub(super) faults: Vec<Fault>,
    /// Requests per second.
    pub(super) rate: u64,
    /// Number of coupons in percent of the users. About half of the users send a request in time.
    pub(super) stock_percent: u64,
    pub(super) acknowledge: &'static str,
    /// Whether users are admitted, and coupons released, over the first minute.
    pub(super) is_released_over_time: bool,
    /// How long coupons are valid.
    pub(super) validity: Option<&'static str>,
    /// The seed of the workload.
    pub(super) seed: u64,
}

impl Round {
    /// Draws the other parameters.
    pub(super) fn draw(number: u64, mut faults: Vec<Fault>, rate: u64, rng: &mut Rng) -> Self {
        faults.sort_by_key(|fault| fault.kind.is_loss_behind_redis());
        let stock_percent = *rng.pick(&[20, 40, 100]);
        let acknowledge = *rng.pick(&["Redis", "Kafka"]);
        let acknowledge = if faults.iter().any(|fault| fault.kind.is_loss_of_redis()) { "Kafka" } else { acknowledge };
        let (seed, is_released_over_time) = (rng.next(), *rng.pick(&[true, false, false]));
        let validity = *rng.pick(&[None, Some(SHORT_VALIDITY)]);
        Self { number, faults, rate, stock_percent, acknowledge, is_released_over_time, validity, seed }
    }

    /// Enough users for the entire round, even if servers restart slowly.
    fn users(&self) -> u64 {
        let faults: Duration = self.faults.iter().map(|fault| fault.after + fault.duration).sum();
        (2 * faults + CALM_PERIOD).as_secs() * self.rate
    }

    /// Runs the round and adds its statistics. Returns whether all checks passed.
    pub(super) fn run(&self, installation: &mut Installation, statistics: &mut Statistics) -> Result<bool> {
        let (start, users) = (Instant::now(), self.users());
        let total = users * self.stock_percent / 100;
        let name = format!("round-{}", self.number);
        let release = if self.is_released_over_time { ", released over time" } else { "" };
        let validity = self.validity.unwrap_or("unlimited");
        println!(
            "\nround {}: {total} coupons{release}, {users} users, acknowledge {}, validity {validity}",
            self.number, self.acknowledge
        );
        let event = Event::new(name, total, self.acknowledge).valid_for(self.validity);
        let mut events = Events::new(if self.is_released_over_time { event.released_over_time() } else { event });
        let (preload_faults, faults): (Vec<&Fault>, Vec<_>) =
            self.faults.iter().partition(|f| f.kind == Kind::CrashPreload);
        for fault in &preload_faults {
            println!("    preload  {}", fault.kind.name());
            fault.inject(installation, &mut events)?;
        }
        events.main.apply(&installation.servers.kubernetes)?;
        let mut restarts = installation.wait_loaded(&events.main)?;
        for fault in preload_faults {
            fault.remove(installation, &mut events)?;
            statistics.add_fault(fault);
        }
        println!("  {:>6.1} s  open, {restarts} restarts of programs", start.elapsed().as_secs_f64());
        let load = Load::start(installation, &events.main, &Workload { users, rate: self.rate, seed: self.seed })?;
        let shops = Shops::start(installation, &events.main, self.seed)?;
        let voids = Voids::start(installation, &events.main)?;

        let (mut injections, mut effects) = (Vec::new(), Effects::default());
        for fault in faults {
            restarts += installation.supervise(fault.after, |_| Ok(false))?;
            println!("  {:>6.1} s  {fault}", start.elapsed().as_secs_f64());
            let injected_at = now();
            injections.push((injected_at, fault.kind.name()));
            restarts += fault.run(installation, &mut events)?;
            match fault.kind {
                Kind::TopicRecreated => effects.is_topic_recreated = true,
                Kind::RedisClock(..0) | Kind::RedisClockAndFlush(..0) => {
                    effects.redis_clock_back.push((injected_at, now()));
                }
                _ => {}
            }
            statistics.add_fault(fault);
        }
        installation.wait_ready()?;
        for event in events.loaded() {
            restarts += installation.wait_loaded(event)?;
            installation.wait_verified(event)?;
        }
        println!("  {:>6.1} s  all faults removed, {restarts} restarts of programs", start.elapsed().as_secs_f64());
        load.finish(installation)?;
        voids.finish()?;
        shops.finish(installation)?;

        let outages = outage::after_each(&load::history(&installation.dir, &events.main), &injections)?;
        for ((_, kind), outage) in injections.into_iter().zip(outages) {
            statistics.add_outage(kind, outage);
        }
        let mut passed = true;
        for event in events.loaded() {
            let checked = load::check(installation, event, &effects)?;
            statistics.add_check(&checked.counts);
            passed &= checked.passed;
        }
        println!(
            "  {:>6.1} s  {}",
            start.elapsed().as_secs_f64(),
            if passed { "all checks passed" } else { "checks FAILED" }
        );
        if passed {
            let kubernetes = &installation.servers.kubernetes;
            [events.main].into_iter().chain(events.created).try_for_each(|event| event.delete(kubernetes))?;
        }
        Ok(passed)
    }
}

/// Microseconds since the Unix epoch.
fn now() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}
