//! Issuing and recording, compared with a textbook implementation (`loadgen textbook`).

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use couponry_testbed::program::{Program, Running};
use couponry_testbed::progress::Step;
use couponry_testbed::{http, ports, process, redis};

use super::installation::Installation;
use super::load::{self, FEW_CONNECTIONS, Load};
use super::options::Options;
use super::statistics::{Samples, float, format_number};
use super::table::{Goal, Table};

/// Number of partitions of its topic.
const PARTITIONS: &str = "12";
/// Number of coupons which the textbook implementation issues and records before it is measured.
const WARM_UP: u64 = 500;
/// Time from the first request after which rows are counted, even if coupons are not recorded yet.
const RECORDING_LIMIT: Duration = Duration::from_mins(1);
/// Time between two counts of rows; each starts psql.
const POLL: Duration = Duration::from_millis(200);

/// Coupons per second.
struct Rates {
    accepted: f64,
    /// From the first request until all coupons are rows in Postgres.
    recorded: f64,
}

/// Adds the rows of the comparison with the textbook implementation.
pub(super) fn measure(installation: &Installation, options: &Options, table: &mut Table) -> Result<()> {
    let Options { rounds, coupons, .. } = *options;
    let (mut ours, mut controls) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let step = Step::start(format!("textbook implementation, round {round} of {rounds}"));
        // Its processes end before Couponry is measured.
        controls.push(measure_textbook(installation, &format!("textbook-{round}"), coupons)?);
        ours.push(measure_couponry(installation, coupons)?);
        step.done();
    }
    let mut add = |work: &str, control: &str, goal, rate: fn(&Rates) -> f64| {
        let median = |all: &[Rates]| format_number(all.iter().map(rate).collect::<Samples>().median());
        let details = format!("{}/s, control {}/s", median(&ours), median(&controls));
        let ratios = ours.iter().zip(&controls).map(|(ours, control)| rate(ours) / rate(control)).collect();
        table.add(work, control, Goal::AtLeast(goal), ratios, details);
    };
    add(
        "issue all coupons over 99 connections, consumer running",
        "`loadgen textbook`: one script call, one record and one row for each coupon",
        2.5,
        |rates| rates.accepted,
    );
    add(
        "issue and record them, from the first request until all are rows in Postgres",
        "the same; after a minute, the rows until then",
        10.0,
        |rates| rates.recorded,
    );
    Ok(())
}

fn measure_couponry(installation: &Installation, coupons: u64) -> Result<Rates> {
    let event = installation.open(coupons, "Redis")?;
    let start = Instant::now();
    let accepted = installation.issue_all(&event, coupons, FEW_CONNECTIONS)?;
    installation.wait_until_recorded()?;
    let recorded = float(coupons) / start.elapsed().as_secs_f64();
    installation.close(&event)?;
    Ok(Rates { accepted, recorded })
}

/// Measures the textbook implementation with a new event and a new topic, which both have this name.
fn measure_textbook(installation: &Installation, name: &str, coupons: u64) -> Result<Rates> {
    let textbook = Textbook::start(installation, name)?;
    let warm_up = format!("{name}-warm-up");
    installation.load_items(&stock(&warm_up), WARM_UP)?;
    textbook.issue_all(&warm_up, WARM_UP)?;
    textbook.consumer.wait_ready(|| textbook.rows(&warm_up).is_ok_and(|rows| rows == WARM_UP))?;

    installation.load_items(&stock(name), coupons)?;
    let start = Instant::now();
    let accepted = textbook.issue_all(name, coupons)?;
    let recorded = loop {
        let rows = textbook.rows(name)?;
        let duration = start.elapsed();
        if rows == coupons || duration > RECORDING_LIMIT {
            break float(rows) / duration.as_secs_f64();
        }
        textbook.consumer.wait_ready(|| true)?;
        thread::sleep(POLL);
    };
    textbook.stop(&[name, &warm_up])?;
    Ok(Rates { accepted, recorded })
}

/// The issuer and the consumer of the textbook implementation.
struct Textbook<'a> {
    installation: &'a Installation,
    url: String,
    issuer: Running,
    consumer: Running,
}

impl<'a> Textbook<'a> {
    fn start(installation: &'a Installation, topic: &str) -> Result<Self> {
        let servers = &installation.servers;
        let (redis, postgres, brokers) = (servers.redis.url(), servers.postgres.url(), servers.kafka.brokers());
        let program = load::program()?;
        let create = ["topic", "--kafka-brokers", &brokers, "--kafka-topic", topic, "create", PARTITIONS];
        process::output(&program, &create, None)?;

        let port = ports::free()?;
        let listen = format!("127.0.0.1:{port}");
        let kafka = ["--kafka-brokers", &brokers, "--topic", topic];
        let issuer = ["textbook", "issuer", "--listen", &listen, "--redis-url", &redis];
        let consumer = ["textbook", "consumer", "--postgres-url", &postgres];
        let textbook = Self {
            installation,
            url: format!("http://{listen}"),
            issuer: Program::at(&program).args(issuer).args(kafka).start()?,
            consumer: Program::at(&program).args(consumer).args(kafka).start()?,
        };
        textbook.issuer.wait_ready(|| http::get(port, "/readyz").is_some_and(|(status, _)| status == 200))?;
        Ok(textbook)
    }

    /// Issues all coupons of an event. Returns responses per second.
    fn issue_all(&self, event: &str, coupons: u64) -> Result<f64> {
        let result = Load::once_each(&self.url, event, coupons, FEW_CONNECTIONS).send()?;
        ensure!(result.count("issued") == coupons, "{} of {coupons} coupons were issued", result.count("issued"));
        Ok(result.responses_per_second())
    }

    /// The number of recorded coupons of an event.
    fn rows(&self, event: &str) -> Result<u64> {
        let count = format!("SELECT count(*) FROM textbook_issuance WHERE event = '{event}';\n");
        let (printed, _) = self.installation.psql(&count)?;
        printed.trim().parse().with_context(|| format!("not a number of rows: {printed}"))
    }

    /// Stops the processes, and deletes what they stored in Redis and Postgres.
    fn stop(self, events: &[&str]) -> Result<()> {
        let Self { installation, issuer, consumer, .. } = self;
        drop((issuer, consumer));
        installation.psql("DROP TABLE textbook_issuance;\n")?;
        for event in events {
            let holders = format!("textbook:{event}:holders");
            redis::command(&installation.servers.redis.url(), &["UNLINK", &holders, &stock(event)])?;
        }
        Ok(())
    }
}

/// The key of the stock in Redis.
fn stock(event: &str) -> String {
    format!("textbook:{event}:stock")
}
