//! Duration of the preload: from `kubectl apply` until the event is open.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use couponry_testbed::progress::Step;
use couponry_testbed::scratch::Scratch;
use couponry_testbed::{Process, process::Launch, programs};

use super::installation::Installation;
use super::load::Load;
use super::options::Options;
use super::statistics::{Samples, float, format_number};
use super::table::{Curve, Goal, Table};

const MILLION: u64 = 1_000_000;
/// Stocks for the plot.
const SMALL: [u64; 2] = [10_000, 100_000];
/// Maximum number of repetitions with a million coupons.
const MAX_ROUNDS: u32 = 3;
/// Number of coupons issued from a large and from a small stock.
const ISSUED: u64 = 10_000;
/// Number of values of one RPUSH of the control.
const PUSHED: usize = 1000;

/// Adds the rows of the preload, and of issuing from a large stock.
pub(super) fn measure(installation: &Installation, options: &Options, table: &mut Table) -> Result<()> {
    let mut preload_curve = Curve { name: "preload".to_owned(), points: Vec::new() };
    let mut control_curve = Curve { name: "control".to_owned(), points: Vec::new() };
    let (mut ratios, mut took, mut control_took) = (Samples::default(), Samples::default(), Samples::default());
    for coupons in SMALL {
        let step = Step::start(format!("preloading {} coupons", format_number(float(coupons))));
        let (seconds, control) = preload(installation, coupons)?;
        preload_curve.points.push((float(coupons), seconds));
        control_curve.points.push((float(coupons), control.seconds()));
        step.done();
    }
    let mut parts = String::new();
    for round in 1..=options.rounds.min(MAX_ROUNDS) {
        let step = Step::start(format!("preloading 1,000,000 coupons, round {round}"));
        let (seconds, control) = preload(installation, MILLION)?;
        ratios.push(seconds / control.seconds());
        took.push(seconds);
        control_took.push(control.seconds());
        parts = format!("copy {:.1}, indexes {:.1}, push {:.1}", control.copy, control.indexes, control.push);
        step.done();
    }
    preload_curve.points.push((float(MILLION), took.median()));
    control_curve.points.push((float(MILLION), control_took.median()));
    table.add(
        "preload 1,000,000 coupons, from `kubectl apply` to open",
        "`COPY` into a bare table, then its two indexes, then a pipelined `RPUSH`",
        Goal::AtMost(1.15),
        ratios,
        format!("{took:.1} s, control {control_took:.1} s (last round: {parts})"),
    );

    let step = Step::start("preloading 10,000,000 coupons");
    let before = installation.redis_info("used_memory")?;
    let (event, seconds) = timed(installation, 10 * MILLION)?;
    let bytes = (installation.redis_info("used_memory")? - before) / float(10 * MILLION);
    let memory = installation.operator.process.process().usage()?.peak_memory / (1024 * 1024);
    preload_curve.points.push((float(10 * MILLION), seconds));
    step.done();
    table.add(
        "preload 10,000,000 coupons",
        "preload 1,000,000",
        Goal::AtMost(11.0),
        Samples::from_iter([seconds / took.median()]),
        format!("{seconds:.1} s; {bytes:.1} bytes per coupon in Redis"),
    );
    table.add(
        "memory of the operator with 10,000,000 coupons, MiB",
        "",
        Goal::AtMost(256.0),
        Samples::from_iter([float(memory)]),
        "peak memory".to_owned(),
    );
    table.preload = vec![preload_curve, control_curve];
    measure_large_stock(installation, options, table, &event)?;
    installation.close(&event)
}

fn measure_large_stock(installation: &Installation, options: &Options, table: &mut Table, large: &str) -> Result<()> {
    let step = Step::start("issuing from 10,000,000 coupons");
    let (mut ratios, mut rates, mut controls) = (Samples::default(), Samples::default(), Samples::default());
    for round in 0..2 * u64::from(options.rounds) {
        let small = installation.open(ISSUED, "Redis")?;
        let control = installation.issue_all(&small, ISSUED, options.connections)?;
        installation.close(&small)?;
        let load = Load::once_each(&installation.target(), large, ISSUED, options.connections);
        let result = installation.send_load(&Load { first_user: round * ISSUED, ..load })?;
        installation.wait_until_recorded()?;
        ensure!(result.count("issued") == ISSUED, "{} of {ISSUED} coupons were issued", result.count("issued"));
        ratios.push(result.responses_per_second() / control);
        rates.push(result.responses_per_second());
        controls.push(control);
    }
    step.done();
    table.add(
        "issue with a stock of 10,000,000",
        "with 10,000",
        Goal::AtLeast(0.9),
        ratios,
        format!("{}/s, control {}/s", format_number(rates.median()), format_number(controls.median())),
    );
    Ok(())
}

/// Applies an event and waits until it is open. Returns its name and the duration in seconds.
fn timed(installation: &Installation, coupons: u64) -> Result<(String, f64)> {
    let start = Instant::now();
    let event = installation.open(coupons, "Redis")?;
    Ok((event, start.elapsed().as_secs_f64()))
}

/// Durations in seconds.
struct Control {
    copy: f64,
    indexes: f64,
    push: f64,
}

impl Control {
    fn seconds(&self) -> f64 {
        self.copy + self.indexes + self.push
    }
}

/// Measures the preload of an event, and of the control with the same rows. Deletes both.
fn preload(installation: &Installation, coupons: u64) -> Result<(f64, Control)> {
    let (event, seconds) = timed(installation, coupons)?;
    let scratch = Scratch::new("rows")?;
    let (rows, pushes) = (scratch.path().join("rows"), scratch.path().join("pushes"));
    let uid = installation.uid(&event)?.replace('-', "");
    installation.psql(&format!(
        "\\copy (SELECT ordinal, code, type, value FROM coupon_{uid} ORDER BY ordinal) TO '{}'\n",
        rows.display()
    ))?;
    write_pushes(&rows, &pushes)?;
    installation.close(&event)?;

    let control = Control {
        copy: copy(installation, &rows)?.as_secs_f64(),
        indexes: index(installation)?.as_secs_f64(),
        push: push(installation, &scratch, &pushes)?.as_secs_f64(),
    };
    installation.psql("DROP TABLE control_coupon;\n")?;
    couponry_testbed::redis::command(&installation.servers.redis.url(), &["UNLINK", "control-queue"])?;
    Ok((seconds, control))
}

fn copy(installation: &Installation, rows: &Path) -> Result<Duration> {
    installation.psql(
        "CREATE TABLE control_coupon (ordinal bigint NOT NULL, code text COLLATE \"C\" NOT NULL, \
         type text COLLATE \"C\" NOT NULL, value bigint NOT NULL);\n",
    )?;
    let copy = format!("\\copy control_coupon (ordinal, code, type, value) FROM '{}'\n", rows.display());
    Ok(installation.psql(&copy)?.1)
}

fn index(installation: &Installation) -> Result<Duration> {
    let index = "ALTER TABLE control_coupon ADD PRIMARY KEY (ordinal);
        ALTER TABLE control_coupon ADD UNIQUE (code);\n";
    Ok(installation.psql(index)?.1)
}

/// Sends the commands with `redis-cli --pipe`.
fn push(installation: &Installation, scratch: &Scratch, pushes: &Path) -> Result<Duration> {
    let program = programs::on_path("redis-cli").context("redis-cli is not installed")?;
    let shell = programs::on_path("sh").context("sh is not installed")?;
    let pipe =
        format!("exec {} -p {} --pipe < {}", program.display(), installation.servers.redis.port(), pushes.display());
    let start = Instant::now();
    let launch = Launch::new("redis-cli", shell, scratch.path().join("redis-cli.log")).args(["-c", &pipe]);
    let process = Process::start(launch)?;
    ensure!(process.wait()?.success(), "redis-cli failed: {}", process.log_tail());
    Ok(start.elapsed())
}

/// Writes RPUSH commands for these rows in the Redis protocol.
fn write_pushes(rows: &Path, pushes: &Path) -> Result<()> {
    let mut out = BufWriter::new(File::create(pushes).with_context(|| format!("cannot write {}", pushes.display()))?);
    let lines = BufReader::new(File::open(rows).with_context(|| format!("cannot read {}", rows.display()))?).lines();
    let mut items = Vec::with_capacity(PUSHED);
    for line in lines {
        let line = line?;
        let fields: Vec<_> = line.split('\t').collect();
        let [_, code, kind, value] = fields[..] else { anyhow::bail!("invalid row: {line}") };
        items.push(format!("{code}:{kind}:{value}"));
        if items.len() == PUSHED {
            write_push(&mut out, &items)?;
            items.clear();
        }
    }
    if !items.is_empty() {
        write_push(&mut out, &items)?;
    }
    out.flush()?;
    ensure!(fs::metadata(pushes)?.len() > 0, "there are no coupons");
    Ok(())
}

fn write_push(out: &mut impl Write, items: &[String]) -> Result<()> {
    write!(out, "*{}\r\n$5\r\nRPUSH\r\n$13\r\ncontrol-queue\r\n", items.len() + 2)?;
    for item in items {
        write!(out, "${}\r\n{item}\r\n", item.len())?;
    }
    Ok(())
}
