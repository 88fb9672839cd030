//! Sales in full, and saying no, each against the control.

use anyhow::{Context, Result};
use couponry_testbed::progress::Step;
use couponry_testbed::{process, programs, redis};

use super::Options;
use super::figures::{Spread, float, whole};
use super::installation::{Installation, Sync, cpu_of};
use super::load::Load;
use super::table::{Goal, Table};

/// What takes one user at a time: looks who has one, takes the next coupon, and notes whose it is.
const ONE_USER_SCRIPT: &str = "\
    if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return false end \
    local item = redis.call('LPOP', KEYS[2]) \
    if not item then return false end \
    redis.call('HSET', KEYS[1], ARGV[1], item .. ':PENDING') \
    return item";
/// How often it is called in a round.
const CALLS: u64 = 40_000;

#[derive(Default)]
struct Rates {
    control: Spread,
    redis: Spread,
    always: Spread,
    kafka: Spread,
    reject: Spread,
}

/// The rows of issuing, of saying no, and of what it costs Redis.
pub(super) fn measure(installation: &Installation, options: &Options, table: &mut Table) -> Result<()> {
    let Options { rounds, coupons, connections, .. } = *options;
    let mut rates = Rates::default();
    let (mut sold, mut rejected, mut synced, mut acknowledged) =
        (Spread::default(), Spread::default(), Spread::default(), Spread::default());
    let (mut recorded, mut redis_cost, mut one_user_cost) = (Spread::default(), Spread::default(), Spread::default());
    let mut shares = Spread::default();
    for round in 1..=rounds {
        let step = Step::start(format!("issuing and saying no, round {round} of {rounds}"));
        let control = installation.control(coupons, connections)?;
        rates.control.push(control);

        let event = installation.open(coupons, "Redis")?;
        let redis = installation.servers.redis.process();
        let (sale, spent) = cpu_of(redis, || {
            let sale = installation.sell(&event, coupons, connections)?;
            recorded.push(installation.share_recorded(coupons));
            installation.drain()?;
            Ok(sale)
        })?;
        let spent = spent / float(coupons);
        sold.push(sale / control);
        rates.redis.push(sale);

        // Half of them hold a coupon.
        let mut late = Load::once_each(&installation.target(), &event, 2 * coupons, connections);
        (late.requests, late.mixed) = (Some(coupons), true);
        let reject = late.send()?.served_per_second();
        rejected.push(reject / control);
        rates.reject.push(reject);
        installation.close(&event)?;

        let event = installation.open(coupons, "Kafka")?;
        let kafka = installation.sell(&event, coupons, connections)?;
        acknowledged.push(kafka / sale);
        rates.kafka.push(kafka);
        installation.close(&event)?;

        let event = installation.open(coupons, "Redis")?;
        installation.sync(Sync::Always)?;
        let always = installation.sell(&event, coupons, connections)?;
        installation.sync(Sync::EverySecond)?;
        synced.push(always / sale);
        rates.always.push(always);
        installation.close(&event)?;

        let one_user = one_user(installation)?;
        shares.push(spent / one_user);
        redis_cost.push(spent * 1e6);
        one_user_cost.push(one_user * 1e6);
        step.done();
    }
    table.highest = Some(rates.redis.median());
    let per_second = |rate: &Spread| format!("{} a second", whole(rate.median()));
    let against_control = |rate: &Spread| format!("{}, control {}", per_second(rate), per_second(&rates.control));
    table.add(
        "issue, sold in full, acknowledge Redis, everysec, consumer running",
        "an axum endpoint that parses the same JSON and answers with a constant",
        Goal::AtLeast(0.7),
        sold,
        format!("{}; {:.0} % recorded by the last answer", against_control(&rates.redis), 100.0 * recorded.median()),
    );
    table.add(
        "reject: sold out, every second user holds a coupon",
        "the same",
        Goal::AtLeast(0.9),
        rejected,
        against_control(&rates.reject),
    );
    let redis = per_second(&rates.redis);
    table.add(
        "issue with `appendfsync always`",
        "issue with `everysec`",
        Goal::AtLeast(0.7),
        synced,
        format!("{}, control {redis}", per_second(&rates.always)),
    );
    table.add(
        "issue with `acknowledge: Kafka`",
        "issue with `acknowledge: Redis`",
        Goal::AtLeast(0.5),
        acknowledged,
        format!("{}, control {redis}", per_second(&rates.kafka)),
    );
    table.add(
        "Redis's CPU for an issued coupon, until it is recorded",
        "`redis-benchmark` of a script for one user",
        Goal::AtMost(1.0 / 6.0),
        shares,
        format!("{redis_cost:.1} µs, control {one_user_cost:.1} µs"),
    );
    Ok(())
}

/// What the script for one user costs Redis, in seconds of CPU a call.
fn one_user(installation: &Installation) -> Result<f64> {
    let url = installation.servers.redis.url();
    let fill: Vec<String> = (0..CALLS).map(|number| format!("BENCH-{number:012}:PERCENT:10")).collect();
    for chunk in fill.chunks(5000) {
        let words: Vec<&str> =
            ["RPUSH", "one-user-queue"].into_iter().chain(chunk.iter().map(String::as_str)).collect();
        redis::command(&url, &words)?;
    }
    let loaded = redis::command(&url, &["SCRIPT", "LOAD", ONE_USER_SCRIPT])?;
    let hash = loaded.lines().nth(1).context("Redis has not loaded the script")?.trim().to_owned();
    let program = programs::on_path("redis-benchmark").context("redis-benchmark is not installed")?;
    let (port, calls) = (installation.servers.redis.port().to_string(), CALLS.to_string());
    let settings = ["-p", &port, "-n", &calls, "-c", "50", "-r", "1000000000", "-q"];
    let call = ["evalsha", &hash, "2", "one-user-holders", "one-user-queue", "user-__rand_int__"];
    let calls = || process::output(&program, &[&settings[..], &call[..]].concat(), None);
    let (_, spent) = cpu_of(installation.servers.redis.process(), calls)?;
    redis::command(&url, &["UNLINK", "one-user-queue", "one-user-holders"])?;
    Ok(spent / float(CALLS))
}
