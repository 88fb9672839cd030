//! Throughput of issuing and of rejecting, compared with the control.

use anyhow::{Context, Result};
use couponry_testbed::progress::Step;
use couponry_testbed::{process, programs, redis};

use super::installation::{FsyncPolicy, Installation, cpu_of};
use super::load::Load;
use super::options::Options;
use super::statistics::{Samples, float, format_number};
use super::table::{Goal, Table};

/// Control: a script for one user, which checks the holders, pops a coupon, and stores the holder.
const SINGLE_USER_SCRIPT: &str = include_str!("../../../loadgen/src/textbook.lua");
/// Number of calls in a round.
const CALLS: u64 = 40_000;

#[derive(Default)]
struct Rates {
    control: Samples,
    redis: Samples,
    always: Samples,
    kafka: Samples,
    reject: Samples,
}

/// Adds the rows of issuing, of rejecting, and of the CPU time of Redis.
pub(super) fn measure(installation: &Installation, options: &Options, table: &mut Table) -> Result<()> {
    let Options { rounds, coupons, connections, .. } = *options;
    let mut rates = Rates::default();
    let (mut issue_ratios, mut reject_ratios, mut always_ratios, mut kafka_ratios) =
        (Samples::default(), Samples::default(), Samples::default(), Samples::default());
    let (mut recorded, mut redis_costs, mut single_user_costs) =
        (Samples::default(), Samples::default(), Samples::default());
    let mut cost_ratios = Samples::default();
    for round in 1..=rounds {
        let step = Step::start(format!("issuing and rejecting, round {round} of {rounds}"));
        let control = installation.control(coupons, connections)?;
        rates.control.push(control);

        let event = installation.open(coupons, "Redis")?;
        let redis = installation.servers.redis.process();
        let (issued_per_second, spent) = cpu_of(redis, || {
            let issued_per_second = installation.issue_all(&event, coupons, connections)?;
            recorded.push(installation.share_recorded(coupons));
            installation.wait_until_recorded()?;
            Ok(issued_per_second)
        })?;
        let spent = spent / float(coupons);
        issue_ratios.push(issued_per_second / control);
        rates.redis.push(issued_per_second);

        // Half of the users have a coupon.
        let mut rejects = Load::once_each(&installation.target(), &event, 2 * coupons, connections);
        (rejects.requests, rejects.mixed) = (Some(coupons), true);
        let reject = rejects.send()?.responses_per_second();
        reject_ratios.push(reject / control);
        rates.reject.push(reject);
        installation.close(&event)?;

        let event = installation.open(coupons, "Kafka")?;
        let kafka = installation.issue_all(&event, coupons, connections)?;
        kafka_ratios.push(kafka / issued_per_second);
        rates.kafka.push(kafka);
        installation.close(&event)?;

        let event = installation.open(coupons, "Redis")?;
        installation.set_fsync(FsyncPolicy::Always)?;
        let always = installation.issue_all(&event, coupons, connections)?;
        installation.set_fsync(FsyncPolicy::EverySecond)?;
        always_ratios.push(always / issued_per_second);
        rates.always.push(always);
        installation.close(&event)?;

        let single_user_cost = single_user_cost(installation)?;
        cost_ratios.push(spent / single_user_cost);
        redis_costs.push(spent * 1e6);
        single_user_costs.push(single_user_cost * 1e6);
        step.done();
    }
    table.highest = Some(rates.redis.median());
    let per_second = |rate: &Samples| format!("{}/s", format_number(rate.median()));
    let against_control = |rate: &Samples| format!("{}, control {}", per_second(rate), per_second(&rates.control));
    table.add(
        "issue all coupons: `acknowledge: Redis`, `everysec`, consumer running",
        "an axum endpoint which parses the same JSON and returns a constant",
        Goal::AtLeast(0.7),
        issue_ratios,
        format!("{}; {:.0} % recorded at the last response", against_control(&rates.redis), 100.0 * recorded.median()),
    );
    table.add(
        "respond without a coupon: sold out, every second user has a coupon",
        "the same",
        Goal::AtLeast(0.9),
        reject_ratios,
        against_control(&rates.reject),
    );
    let redis = per_second(&rates.redis);
    table.add(
        "issue with `appendfsync always`",
        "issue with `everysec`",
        Goal::AtLeast(0.7),
        always_ratios,
        format!("{}, control {redis}", per_second(&rates.always)),
    );
    table.add(
        "issue with `acknowledge: Kafka`",
        "issue with `acknowledge: Redis`",
        Goal::AtLeast(0.5),
        kafka_ratios,
        format!("{}, control {redis}", per_second(&rates.kafka)),
    );
    table.add(
        "CPU time of Redis for a coupon, until it is recorded",
        "a script for one user, with `redis-benchmark`",
        Goal::AtMost(1.0 / 6.0),
        cost_ratios,
        format!("{redis_costs:.1} µs, control {single_user_costs:.1} µs"),
    );
    Ok(())
}

/// CPU seconds of Redis for one call of the script for one user.
fn single_user_cost(installation: &Installation) -> Result<f64> {
    let url = installation.servers.redis.url();
    installation.load_items("one-user-queue", CALLS)?;
    let loaded = redis::command(&url, &["SCRIPT", "LOAD", SINGLE_USER_SCRIPT])?;
    let hash = loaded.lines().nth(1).context("SCRIPT LOAD returned no hash")?.trim().to_owned();
    let program = programs::on_path("redis-benchmark").context("redis-benchmark is not installed")?;
    let (port, calls) = (installation.servers.redis.port().to_string(), CALLS.to_string());
    let settings = ["-p", &port, "-n", &calls, "-c", "50", "-r", "1000000000", "-q"];
    let call = ["evalsha", &hash, "2", "one-user-holders", "one-user-queue", "user-__rand_int__"];
    let calls = || process::output(&program, &[&settings[..], &call[..]].concat(), None);
    let (_, spent) = cpu_of(installation.servers.redis.process(), calls)?;
    redis::command(&url, &["UNLINK", "one-user-queue", "one-user-holders"])?;
    Ok(spent / float(CALLS))
}
