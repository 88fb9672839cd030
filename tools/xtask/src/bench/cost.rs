//! CPU time for a coupon, of each program and server, and for a request that is refused.
//!
//! Everything shares the same cores, so the ratio of two throughputs mixes the costs of all processes; the CPU time of
//! one of them for a unit of work does not.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use couponry_testbed::progress::Step;
use couponry_testbed::{Process, process, programs, redis};

use super::installation::{Installation, cpu_of};
use super::load::{FEW_CONNECTIONS, Load};
use super::options::Options;
use super::statistics::{Samples, float, format_number};
use super::table::{Goal, Table};

const TIMEOUT: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(20);

/// Control: a script for one user, which checks the holders, pops a coupon, and stores the holder.
const ONE_USER_SCRIPT: &str = include_str!("../../../loadgen/src/textbook.lua");
/// Number of calls in a round.
const CALLS: u64 = 40_000;

/// The parts of an installation, in the order of the columns.
const PARTS: [&str; 5] = ["issuer", "Postgres", "Redis", "broker", "consumer"];
/// Microseconds for a coupon that each part may use; for the sum, [`SUM_GOAL`].
const GOALS: [Goal; 5] = [Goal::None, Goal::AtMost(24.0), Goal::None, Goal::AtMost(6.5), Goal::None];
const SUM_GOAL: f64 = 60.0;

/// Adds the rows of CPU time.
pub(super) fn measure(installation: &Installation, options: &Options, table: &mut Table) -> Result<()> {
    let Options { rounds, coupons, connections, .. } = *options;
    let mut parts = PARTS.map(|_| Samples::default());
    let [mut sums, mut rates, mut echoes, mut refused] = [(); 4].map(|()| Samples::default());
    let [mut issue_ratios, mut refused_ratios] = [(); 2].map(|()| Samples::default());
    let [mut redis_costs, mut one_user_costs, mut redis_ratios] = [(); 3].map(|()| Samples::default());
    for round in 1..=rounds {
        let step = Step::start(format!("CPU time for a coupon, round {round} of {rounds}"));
        let (_, echo) = cpu_of(installation.control.process(), || installation.control(coupons, connections))?;
        let echo = echo / float(coupons) * 1e6;
        echoes.push(echo);

        let event = installation.open(coupons, "Redis")?;
        let (rate, costs) = costs(installation, &event, coupons, connections)?;
        rates.push(rate);
        sums.push(costs.iter().sum());
        for (samples, cost) in parts.iter_mut().zip(costs) {
            samples.push(cost);
        }
        issue_ratios.push(costs[0] / echo);

        let refuse = Load::refused(&installation.target(), &event, coupons, connections);
        let (_, cost) = cpu_of(installation.issuer.process.process(), || refuse.send())?;
        let cost = cost / float(coupons) * 1e6;
        refused.push(cost);
        refused_ratios.push(cost / echo);
        installation.close(&event)?;

        let event = installation.open(coupons, "Redis")?;
        let (_, [_, _, redis, _, _]) = self::costs(installation, &event, coupons, FEW_CONNECTIONS)?;
        installation.close(&event)?;
        let one_user = one_user_cost(installation)? * 1e6;
        redis_costs.push(redis);
        one_user_costs.push(one_user);
        redis_ratios.push(redis / one_user);
        step.done();
    }
    let echo = "CPU time of an axum endpoint that parses the same JSON and returns a constant, for a request";
    let of_sum = |samples: &Samples| format!("{:.0} % of the sum", 100.0 * samples.median() / sums.median());
    let rate = format!("at {} coupons/s", format_number(rates.median()));
    table.add("CPU time of all parts for a coupon, µs", "", Goal::AtMost(SUM_GOAL), sums.clone(), rate);
    for ((part, goal), samples) in PARTS.into_iter().zip(GOALS).zip(&parts) {
        table.add(&format!("of it: {part}, µs"), "", goal, samples.clone(), of_sum(samples));
    }
    let control = format!("control {echoes:.1} µs");
    let measured = format!("{:.1} µs, {control}", parts[0]);
    table.add("CPU time of the issuer for a coupon", echo, Goal::AtMost(1.7), issue_ratios, measured);
    let measured = format!("{refused:.1} µs, {control}");
    let work = "CPU time of the issuer for a refused request: sold out, every second user has a coupon";
    table.add(work, "the same", Goal::AtMost(1.15), refused_ratios, measured);
    table.add(
        &format!("CPU time of Redis for a coupon, until it is recorded, {FEW_CONNECTIONS} connections"),
        "a script for one user, with `redis-benchmark`",
        Goal::AtMost(0.4),
        redis_ratios,
        format!("{redis_costs:.1} µs, control {one_user_costs:.1} µs"),
    );
    Ok(())
}

/// Issues all coupons of an event and waits until they are recorded, also in Redis. Returns coupons per second, and the
/// microseconds of CPU time of each of [`PARTS`] for a coupon.
fn costs(installation: &Installation, event: &str, coupons: u64, connections: u32) -> Result<(f64, [f64; 5])> {
    let servers = &installation.servers;
    let processes: [&Process; 5] = [
        installation.issuer.process.process(),
        servers.postgres.process(),
        servers.redis.process(),
        servers.kafka.process(),
        installation.consumer.process.process(),
    ];
    let usage = || -> Result<Vec<Duration>> { processes.iter().map(|process| Ok(process.usage()?.cpu)).collect() };
    let before = usage()?;
    let rate = installation.issue_all(event, coupons, connections)?;
    installation.wait_until_recorded()?;
    wait_until_completed(installation, event, coupons)?;
    let after = usage()?;
    let mut costs = [0.0; 5];
    for (cost, (before, after)) in costs.iter_mut().zip(before.iter().zip(after)) {
        *cost = after.saturating_sub(*before).as_secs_f64() / float(coupons) * 1e6;
    }
    Ok((rate, costs))
}

fn wait_until_completed(installation: &Installation, event: &str, coupons: u64) -> Result<()> {
    let (url, key) = (installation.servers.redis.url(), format!("couponMeta:{{{event}}}"));
    let deadline = Instant::now() + TIMEOUT;
    while redis::command(&url, &["HGET", &key, "completed"])?.lines().last() != Some(&coupons.to_string()) {
        ensure!(Instant::now() < deadline, "timeout: not all coupons of {event} are COMPLETED in Redis");
        thread::sleep(POLL);
    }
    Ok(())
}

/// CPU seconds of Redis for one call of the script for one user.
fn one_user_cost(installation: &Installation) -> Result<f64> {
    let url = installation.servers.redis.url();
    installation.load_items("one-user-queue", CALLS)?;
    let loaded = redis::command(&url, &["SCRIPT", "LOAD", ONE_USER_SCRIPT])?;
    let hash = loaded.lines().nth(1).context("SCRIPT LOAD returned no hash")?.trim().to_owned();
    let program = programs::on_path("redis-benchmark").context("redis-benchmark is not installed")?;
    let (port, calls) = (installation.servers.redis.port().to_string(), CALLS.to_string());
    let connections = FEW_CONNECTIONS.to_string();
    let settings = ["-p", &port, "-n", &calls, "-c", &connections, "-r", "1000000000", "-q"];
    let call = ["evalsha", &hash, "2", "one-user-holders", "one-user-queue", "user-__rand_int__"];
    let calls = || process::output(&program, &[&settings[..], &call[..]].concat(), None);
    let (_, spent) = cpu_of(installation.servers.redis.process(), calls)?;
    redis::command(&url, &["UNLINK", "one-user-queue", "one-user-holders"])?;
    Ok(spent / float(CALLS))
}
