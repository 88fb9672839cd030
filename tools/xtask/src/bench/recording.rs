//! The consumer, with all records waiting for it in Kafka.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use couponry_testbed::progress::Step;

use super::Options;
use super::figures::{Spread, float, whole};
use super::installation::Installation;
use super::table::{Goal, Table};

/// How often it is looked how far the consumer is.
const POLL: Duration = Duration::from_millis(25);
/// As many rows as the consumer takes at a time.
const BATCH: usize = 1000;
/// How many sales wait for the consumer.
const SALES: u64 = 2;

/// The row of recording.
pub(super) fn measure(installation: &Installation, options: &Options, table: &mut Table) -> Result<()> {
    let (mut ratios, mut rates, mut controls) = (Spread::default(), Spread::default(), Spread::default());
    let coupons = SALES * options.coupons;
    for round in 1..=options.rounds {
        let step = Step::start(format!("recording, round {round} of {}", options.rounds));
        let event = installation.open(coupons, "Redis")?;
        installation.stop_consumer()?;
        installation.sell(&event, coupons, options.connections)?;
        let rate = record(installation, coupons)?;
        let control = insert(installation, &event, coupons)?;
        installation.close(&event)?;
        ratios.push(rate / control);
        rates.push(rate);
        controls.push(control);
        step.done();
    }
    table.add(
        "consumer, Kafka to Postgres",
        "plain inserts of the same rows into the same table, a thousand in each",
        Goal::AtLeast(0.7),
        ratios,
        format!("{} a second, control {} a second", whole(rates.median()), whole(controls.median())),
    );
    Ok(())
}

/// Starts the consumer: records a second, from its first batch on. Joining its group is no work.
fn record(installation: &Installation, coupons: u64) -> Result<f64> {
    installation.consumer.process.restart()?;
    let mut first = None;
    loop {
        let now = Instant::now();
        let recorded = installation.recorded().unwrap_or_default();
        match first {
            None if recorded > 0 => first = Some((recorded, now)),
            Some((begun_with, since)) if recorded >= coupons => {
                ensure!(begun_with < coupons, "all was recorded before it could be seen");
                return Ok(float(recorded - begun_with) / (now - since).as_secs_f64());
            }
            _ => {}
        }
        installation.consumer.process.wait_ready(|| true)?;
        thread::sleep(POLL);
    }
}

/// The same rows into a table of the same kind: rows a second.
fn insert(installation: &Installation, event: &str, coupons: u64) -> Result<f64> {
    let uid = installation.uid(event)?;
    let (rows, _) = installation.psql(&format!(
        "SELECT user_id, code, type, value, issued_at FROM issuance WHERE event_uid = '{uid}' ORDER BY recorded_at;\n"
    ))?;
    let rows: Vec<&str> = rows.lines().collect();
    ensure!(float(coupons) - float(rows.len() as u64) == 0.0, "{} rows of {coupons}", rows.len());
    installation.psql(
        "CREATE TABLE control_issuance (LIKE issuance INCLUDING ALL, FOREIGN KEY (event_uid) REFERENCES coupon_event);\n",
    )?;
    let mut script = String::new();
    for batch in rows.chunks(BATCH) {
        script.push_str("INSERT INTO control_issuance (event_uid, user_id, code, type, value, issued_at) VALUES ");
        for (number, row) in batch.iter().enumerate() {
            let fields: Vec<_> = row.split('|').collect();
            let [user, code, kind, value, issued_at] = fields[..] else { anyhow::bail!("a row: {row}") };
            let comma = if number > 0 { "," } else { "" };
            write!(script, "{comma}('{uid}','{user}','{code}','{kind}',{value},'{issued_at}')")?;
        }
        script.push_str(";\n");
    }
    let (_, took) = installation.psql(&script)?;
    installation.psql("DROP TABLE control_issuance;\n")?;
    Ok(float(coupons) / took.as_secs_f64())
}
