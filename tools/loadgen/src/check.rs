//! The command `loadgen check`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use couponry_domain::{Discount, EventName};
use couponry_loadgen::checker::{self, Class, Evidence, Report};
use couponry_loadgen::history;
use couponry_loadgen::progress::Kind;
use couponry_loadgen::readers::{Backlog, Stores};
use couponry_settings::{KafkaSettings, PostgresSettings, RedisSettings};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The event: the name of its resource.
    #[arg(long)]
    event: EventName,
    /// What `run` wrote; may be given several times. All requests of the event must be in it.
    #[arg(long, required = true)]
    history: Vec<PathBuf>,
    /// How many coupons the event is meant to have.
    #[arg(long)]
    total: u64,
    /// How many of them of a discount, as TYPE:VALUE=COUNT, such as PERCENT:10=70000; given for all discounts or for none.
    #[arg(long = "expect", value_name = "TYPE:VALUE=COUNT")]
    expected: Vec<Expected>,
    /// How many seconds to wait for the consumers.
    #[arg(long, default_value_t = 120)]
    wait: u64,
    /// A file for the numbers, for programs: how many requests had which outcome, and how often which class was broken.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    postgres: PostgresSettings,
    #[command(flatten)]
    kafka: KafkaSettings,
}

/// `TYPE:VALUE=COUNT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expected(Discount, u64);

impl FromStr for Expected {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once('=').and_then(|(discount, count)| Some((discount.split_once(':')?, count)));
        let ((kind, value), count) = parts.context("not of the form TYPE:VALUE=COUNT")?;
        let discount = Discount { kind: kind.parse()?, value: value.parse().context("VALUE")? };
        Ok(Self(discount, count.parse().context("COUNT")?))
    }
}

pub(crate) fn check(args: Args) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(check_stores(args))
}

async fn check_stores(args: Args) -> Result<ExitCode> {
    let mut history = Vec::new();
    for path in &args.history {
        history.extend(history::read(path)?);
    }
    let stores = Stores::connect(&args.redis, &args.postgres, args.kafka)?;
    wait(&stores, &args.event, Duration::from_secs(args.wait)).await?;

    let uid = stores.uid(&args.event).await?;
    let evidence = Evidence {
        total: args.total,
        expected: args.expected.iter().map(|Expected(discount, count)| (*discount, *count)).collect(),
        history,
        redis: stores.redis(&args.event).await?,
        kafka: stores.kafka(uid).await?,
        postgres: stores.postgres(uid).await?,
    };
    let report = checker::check(&evidence);
    print!("{report}");
    if let Some(path) = &args.json {
        fs::write(path, numbers(&evidence, &report).to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Two objects: `requests` by outcome, and `broken` by class.
fn numbers(evidence: &Evidence, report: &Report) -> serde_json::Value {
    let mut requests: BTreeMap<&str, u64> = BTreeMap::new();
    for attempt in &evidence.history {
        *requests.entry(Kind::of(&attempt.outcome).name()).or_default() += 1;
    }
    let mut broken: BTreeMap<&str, u64> = BTreeMap::new();
    // What was recovered breaks nothing.
    for finding in report.findings.iter().filter(|finding| finding.class != Class::Recovered) {
        *broken.entry(finding.class.name()).or_default() += finding.broken;
    }
    serde_json::json!({"requests": requests, "broken": broken})
}

async fn wait(stores: &Stores, event: &EventName, wait: Duration) -> Result<()> {
    // Without a terminal the bar draws nothing, so the end is said in a line of its own.
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("waiting for the consumers {bar:30} {human_pos}/{human_len}  {msg}")
    {
        bar.set_style(style);
    }
    let backlog = stores
        .caught_up(event, wait, |Backlog { issued, recorded, completed, outbox, is_verified }| {
            bar.set_length(issued);
            bar.set_position(recorded.min(completed));
            bar.set_message(match outbox {
                _ if !is_verified => "Redis is not known to be whole".to_owned(),
                0 => String::new(),
                _ => format!("{outbox} batches in the outbox"),
            });
        })
        .await?;
    bar.finish_and_clear();
    let Backlog { issued, recorded, .. } = backlog;
    let end =
        if backlog.is_empty() { "the consumers have caught up" } else { "the consumers did NOT catch up in time" };
    println!("{end}: {} issued, {} recorded", HumanCount(issued), HumanCount(recorded));
    Ok(())
}

#[cfg(test)]
mod tests {
    use couponry_domain::DiscountType;

    use super::*;

    #[test]
    fn expected_counts_are_read_from_text() {
        let expected = |text: &str| text.parse::<Expected>();
        let ten_percent = Discount { kind: DiscountType::Percent, value: 10 };
        assert_eq!(expected("PERCENT:10=70000").unwrap(), Expected(ten_percent, 70_000));
        for bad in ["", "PERCENT:10", "PERCENT=5", "HALF:1=1", "PERCENT:x=1", "PERCENT:10=-1"] {
            assert!(expected(bad).is_err(), "{bad}");
        }
    }
}
