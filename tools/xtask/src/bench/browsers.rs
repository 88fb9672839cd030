//! Issuing while browsers request the event.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use couponry_testbed::http;
use couponry_testbed::progress::Step;

use super::installation::Installation;
use super::load::{Load, LoadResult};
use super::options::Options;
use super::statistics::{Samples, float, format_number};
use super::table::{Goal, Table};

/// Requests of the event per second.
const RATE: f64 = 5000.0;
const CONNECTIONS: u32 = 64;
/// How long only browsers send requests, to measure what each of them costs.
const SECONDS: f64 = 3.0;

/// Adds the rows of issuing beside browsers.
pub(super) fn measure(installation: &Installation, options: &Options, table: &mut Table) -> Result<()> {
    let [mut ratios, mut with, mut without, mut reads] = [(); 4].map(|()| Samples::default());
    let [mut rates_with, mut rates_without, mut view_costs] = [(); 3].map(|()| Samples::default());
    let coupons = options.coupons;
    let micros = |cpu: Duration, count: f64| cpu.as_secs_f64() / count * 1e6;
    for round in 1..=options.rounds {
        let step = Step::start(format!("issuing beside browsers, round {round} of {}", options.rounds));
        let event = installation.open(coupons, "Redis")?;
        let before = cpu(installation)?;
        let rate = installation.issue_all(&event, coupons, options.connections)?;
        let alone = micros(cpu(installation)?.saturating_sub(before), float(coupons));
        let before = cpu(installation)?;
        let views = load(installation, &event, SECONDS).send()?;
        let view = micros(cpu(installation)?.saturating_sub(before), views.responses_per_second() * views.seconds());
        installation.close(&event)?;

        let event = installation.open(coupons, "Redis")?;
        // Also if issuing is three times as slow.
        let load = load(installation, &event, 3.0 * float(coupons) / rate + SECONDS);
        let beside = thread::scope(|scope| -> Result<_> {
            let count_before = event_reads(installation)?;
            let start = Instant::now();
            let browsers = scope.spawn(|| load.send());
            while event_reads(installation)? <= count_before {
                ensure!(start.elapsed() < Duration::from_mins(1), "timeout: no browser has requested the event");
                thread::sleep(Duration::from_millis(20));
            }
            let (before, start) = (cpu(installation)?, Instant::now());
            let rate = installation.issue_all(&event, coupons, options.connections)?;
            let seconds = start.elapsed().as_secs_f64();
            let spent = cpu(installation)?.saturating_sub(before);
            ensure!(!browsers.is_finished(), "issuing took longer than the requests of the browsers");
            let views: LoadResult = browsers.join().map_err(|_| anyhow!("the load of the browsers panicked"))??;
            ensure!(
                views.responses_per_second() > 0.9 * RATE,
                "browsers sent only {:.0} requests per second",
                views.responses_per_second()
            );
            let reads = event_reads(installation)? - count_before;
            Ok((rate, micros(spent, float(coupons)) - view * RATE * seconds / float(coupons), reads / views.seconds()))
        });
        let (rate_beside, cost_beside, reads_per_second) = beside?;
        installation.close(&event)?;
        ratios.push(alone / cost_beside);
        with.push(cost_beside);
        without.push(alone);
        reads.push(reads_per_second);
        rates_with.push(rate_beside);
        rates_without.push(rate);
        view_costs.push(view);
        step.done();
    }
    let rate = format_number(RATE);
    table.add(
        &format!(
            "coupons per CPU time of issuer and Redis, beside {rate} `GET /coupons/{{eventId}}` per second, without the \
             CPU time of these"
        ),
        "the same without these requests",
        Goal::AtLeast(0.9),
        ratios,
        format!(
            "{with:.1} µs per coupon, control {without:.1} µs; {}/s, control {}/s; {view_costs:.1} µs per GET",
            format_number(rates_with.median()),
            format_number(rates_without.median()),
        ),
    );
    table.add(
        &format!("reads of the event from Redis per second, with {rate} `GET /coupons/{{eventId}}` per second"),
        "",
        Goal::AtMost(4.0),
        reads,
        String::new(),
    );
    Ok(())
}

fn load(installation: &Installation, event: &str, seconds: f64) -> Load {
    Load::views(&installation.target(), event, RATE, seconds, CONNECTIONS)
}

/// The CPU time of the issuer and of Redis.
fn cpu(installation: &Installation) -> Result<Duration> {
    let issuer = installation.issuer.process.process().usage()?.cpu;
    Ok(issuer + installation.servers.redis.process().usage()?.cpu)
}

/// How often the issuer has read the state of an event.
fn event_reads(installation: &Installation) -> Result<f64> {
    let (_, metrics) = http::get(installation.issuer.monitor, "/metrics").context("the issuer has no metrics")?;
    let value = metrics.lines().find_map(|line| line.strip_prefix("couponry_issuer_event_reads_total "));
    value.and_then(|value| value.parse().ok()).context("the issuer has no metric of the reads")
}
