//! Throughput of the consumer, with all records in Kafka.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use couponry_testbed::progress::Step;

use super::installation::Installation;
use super::options::Options;
use super::statistics::{Samples, float, format_number};
use super::table::{Goal, Table};

const POLL: Duration = Duration::from_millis(25);
/// Number of rows of one INSERT, like the batches of the consumer.
const BATCH: usize = 1000;
/// Number of coupons, as a multiple of `--coupons`.
const COUPONS_FACTOR: u64 = 2;

/// Adds the row of recording.
pub(super) fn measure(installation: &Installation, options: &Options, table: &mut Table) -> Result<()> {
    let (mut ratios, mut rates, mut controls) = (Samples::default(), Samples::default(), Samples::default());
    let coupons = COUPONS_FACTOR * options.coupons;
    for round in 1..=options.rounds {
        let step = Step::start(format!("recording, round {round} of {}", options.rounds));
        let event = installation.open(coupons, "Redis")?;
        installation.stop_consumer()?;
        installation.issue_all(&event, coupons, options.connections)?;
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
        "inserts of the same rows into a table with a foreign key to the event, 1,000 rows each",
        Goal::AtLeast(0.7),
        ratios,
        format!("{}/s, control {}/s", format_number(rates.median()), format_number(controls.median())),
    );
    Ok(())
}

/// Starts the consumer. Returns records per second from its first batch on, without the time to join the group.
fn record(installation: &Installation, coupons: u64) -> Result<f64> {
    installation.consumer.process.restart()?;
    let mut first = None;
    loop {
        let now = Instant::now();
        let recorded = installation.recorded().unwrap_or_default();
        match first {
            None if recorded > 0 => first = Some((recorded, now)),
            Some((first_count, since)) if recorded >= coupons => {
                ensure!(first_count < coupons, "all records were recorded within one polling interval");
                return Ok(float(recorded - first_count) / (now - since).as_secs_f64());
            }
            _ => {}
        }
        installation.consumer.process.wait_ready(|| true)?;
        thread::sleep(POLL);
    }
}

/// Inserts the same rows into a table with the same columns and indexes, and a foreign key. Returns rows per second.
fn insert(installation: &Installation, event: &str, coupons: u64) -> Result<f64> {
    let uid = installation.uid(event)?;
    let (rows, _) = installation.psql(&format!(
        "SELECT user_id, code, type, value, issued_at FROM issuance WHERE event_uid = '{uid}' ORDER BY recorded_at;\n"
    ))?;
    let rows: Vec<&str> = rows.lines().collect();
    ensure!(float(coupons) - float(rows.len() as u64) == 0.0, "{} of {coupons} rows", rows.len());
    installation.psql(
        "CREATE TABLE control_issuance \
         (LIKE issuance INCLUDING ALL, FOREIGN KEY (event_uid) REFERENCES coupon_event);\n",
    )?;
    let mut script = String::new();
    for batch in rows.chunks(BATCH) {
        script.push_str("INSERT INTO control_issuance (event_uid, user_id, code, type, value, issued_at) VALUES ");
        for (number, row) in batch.iter().enumerate() {
            let fields: Vec<_> = row.split('|').collect();
            let [user, code, kind, value, issued_at] = fields[..] else { anyhow::bail!("invalid row: {row}") };
            let comma = if number > 0 { "," } else { "" };
            write!(script, "{comma}('{uid}','{user}','{code}','{kind}',{value},'{issued_at}')")?;
        }
        script.push_str(";\n");
    }
    let (_, took) = installation.psql(&script)?;
    installation.psql("DROP TABLE control_issuance;\n")?;
    Ok(float(coupons) / took.as_secs_f64())
}
