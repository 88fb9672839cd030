//! Throughput of issuing and of rejecting, compared with the control.

use anyhow::{Result, ensure};
use couponry_testbed::progress::Step;

use super::installation::{FsyncPolicy, Installation};
use super::load::Load;
use super::options::Options;
use super::statistics::{Samples, format_number};
use super::table::{Goal, Table};

#[derive(Default)]
struct Rates {
    control: Samples,
    redis: Samples,
    always: Samples,
    kafka: Samples,
    released: Samples,
    reject: Samples,
}

/// Adds the rows of issuing and of rejecting.
pub(super) fn measure(installation: &Installation, options: &Options, table: &mut Table) -> Result<()> {
    let Options { rounds, coupons, connections, .. } = *options;
    let mut rates = Rates::default();
    let [mut issue_ratios, mut reject_ratios, mut always_ratios, mut kafka_ratios, mut released_ratios] =
        [(); 5].map(|()| Samples::default());
    let mut recorded = Samples::default();
    for round in 1..=rounds {
        let step = Step::start(format!("issuing and rejecting, round {round} of {rounds}"));
        let control = installation.control(coupons, connections)?;
        rates.control.push(control);

        let event = installation.open(coupons, "Redis")?;
        let issued_per_second = installation.issue_all(&event, coupons, connections)?;
        recorded.push(installation.share_recorded(coupons));
        installation.wait_until_recorded()?;
        issue_ratios.push(issued_per_second / control);
        rates.redis.push(issued_per_second);

        let released = issue_with_release(installation, coupons, connections)?;
        released_ratios.push(released / issued_per_second);
        rates.released.push(released);

        let rejects = Load::refused(&installation.target(), &event, coupons, connections);
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

        step.done();
    }
    table.highest = Some(rates.redis.median());
    let per_second = |rate: &Samples| format!("{}/s", format_number(rate.median()));
    let against_control = |rate: &Samples| format!("{}, control {}", per_second(rate), per_second(&rates.control));
    table.add(
        "issue all coupons: `acknowledge: Redis`, `everysec`, consumer running",
        "an axum endpoint which parses the same JSON and returns a constant",
        Goal::None,
        issue_ratios,
        format!("{}; {:.0} % recorded at the last response", against_control(&rates.redis), 100.0 * recorded.median()),
    );
    table.add(
        "respond without a coupon: sold out, every second user has a coupon",
        "the same",
        Goal::None,
        reject_ratios,
        against_control(&rates.reject),
    );
    let redis = per_second(&rates.redis);
    table.add(
        "issue during a ramp and before a drop",
        "issue without `admission` and `drops`",
        Goal::AtLeast(0.97),
        released_ratios,
        format!("{}, control {redis}", per_second(&rates.released)),
    );
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
    Ok(())
}

/// Issues the coupons of an event that is released over time. Returns responses per second.
fn issue_with_release(installation: &Installation, coupons: u64, connections: u32) -> Result<f64> {
    let event = installation.open_with_release(coupons)?;
    let result = installation.send_load(&Load::once_each(&installation.target(), &event, coupons, connections))?;
    let (issued, waiting) = (result.count("issued"), result.count("notIssued"));
    ensure!(issued >= coupons * 98 / 100 && waiting > 0, "{issued} of {coupons} were issued, {waiting} users wait");
    installation.close(&event)?;
    Ok(result.responses_per_second())
}
