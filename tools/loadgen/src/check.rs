//! The command `loadgen check`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use couponry_domain::{Discount, Drops, EventName, Release, Uuid};
use couponry_loadgen::checker::{self, Category, CheckInput, KafkaData, PostgresData, RedemptionInput, Report};
use couponry_loadgen::checkout::{self, void_history};
use couponry_loadgen::connection::Target;
use couponry_loadgen::history;
use couponry_loadgen::outcome::OutcomeKind;
use couponry_loadgen::readers::{EventCounts, Stores};
use couponry_output::Stdout;
use couponry_settings::{KafkaSettings, PostgresSettings, RedisSettings};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name of the event.
    #[arg(long)]
    event: EventName,
    /// History which `run` wrote. Repeatable; together they must have all requests of the event.
    #[arg(long, required = true)]
    history: Vec<PathBuf>,
    /// Planned number of coupons.
    #[arg(long)]
    total: u64,
    /// Planned number of coupons of a discount, such as PERCENT:10=70000. Repeatable, for all discounts or none.
    #[arg(long = "expect", value_name = "TYPE:VALUE=COUNT")]
    expected: Vec<Expected>,
    /// Planned ramp of the admission, in seconds.
    #[arg(long)]
    ramp_seconds: Option<u32>,
    /// Planned drops, such as 1796083200000:500,1796086800000:1000, with times in milliseconds since the Unix epoch.
    #[arg(long, default_value = "")]
    drops: Drops,
    /// Maximum time to wait until all issuances are recorded.
    #[arg(long, default_value_t = 120)]
    wait_seconds: u64,
    /// The topic was deleted and created again during the event, so it does not have all records.
    #[arg(long)]
    topic_was_recreated: bool,
    /// Period in which the clock of Redis was set back, such as 1796083200000000-1796083202000000, in microseconds
    /// since the Unix epoch. Responses `NOT_STARTED` are then valid. Repeatable.
    #[arg(long, value_name = "FROM-UNTIL")]
    redis_clock_back: Vec<Period>,
    /// History which `redeem` wrote. Repeatable; together they must have all requests of the event to redeemers.
    #[arg(long, value_name = "FILE", requires = "redeemer")]
    redemptions: Vec<PathBuf>,
    /// Redeemer whose responses are compared, as http://host:port.
    #[arg(long, value_name = "URL")]
    redeemer: Option<Target>,
    /// History of the voids. Repeatable; together they must have all voids of the event.
    #[arg(long, value_name = "FILE")]
    voids: Vec<PathBuf>,
    /// Topic of the uses of coupons.
    #[arg(long, default_value = "coupon-used", value_name = "TOPIC")]
    kafka_used_topic: String,
    /// File for the number of attempts by outcome and of violations by category, as JSON.
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
        let discount = Discount { kind: kind.parse()?, value: value.parse().context("invalid VALUE")? };
        Ok(Self(discount, count.parse().context("invalid COUNT")?))
    }
}

/// `FROM-UNTIL`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Period(RangeInclusive<i64>);

impl FromStr for Period {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (from, until) = text.split_once('-').context("not of the form FROM-UNTIL")?;
        Ok(Self(from.parse().context("invalid FROM")?..=until.parse().context("invalid UNTIL")?))
    }
}

pub(crate) async fn check(args: Args) -> Result<ExitCode> {
    let mut history = Vec::new();
    for path in &args.history {
        history.extend(history::read(path)?);
    }
    let stores = Stores::connect(&args.redis, &args.postgres, args.kafka.clone())?;
    let start = Instant::now();
    wait_recorded(&stores, &args.event, Duration::from_secs(args.wait_seconds)).await?;
    let recorded_after = start.elapsed();

    let uid = stores.uid(&args.event).await?;
    let mut voids = Vec::new();
    for path in &args.voids {
        voids.extend(void_history::read(path)?);
    }
    let uses = checkout::stored::rows(&args.postgres, uid).await?;
    let voided: BTreeSet<_> = uses.iter().filter(|row| row.kind == "VOIDED").map(|row| row.coupon.clone()).collect();
    let redis = stores.wait_voided(&args.event, voided.len(), Duration::from_secs(args.wait_seconds)).await?;
    let input = CheckInput {
        total: args.total,
        expected: args.expected.iter().map(|Expected(discount, count)| (*discount, *count)).collect(),
        release: Release { ramp_seconds: args.ramp_seconds, drops: args.drops.clone() },
        redis_clock_back: args.redis_clock_back.iter().map(|Period(period)| period.clone()).collect(),
        history,
        voids,
        redis,
        kafka: KafkaData { is_incomplete: args.topic_was_recreated, ..stores.kafka(uid).await? },
        postgres: PostgresData { voided, ..stores.postgres(uid).await? },
    };
    let mut report = checker::check(&input);
    let redemptions = match &args.redeemer {
        Some(redeemer) => {
            let redemptions = redemptions(&args, redeemer, uid, &input).await?;
            report.results.extend(checker::check_redemptions(&redemptions).results);
            redemptions
        }
        None => RedemptionInput::default(),
    };
    write!(Stdout, "{report}")?;
    if let Some(path) = &args.json {
        fs::write(path, counts(&input, &redemptions, &report, recorded_after).to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn redemptions(args: &Args, redeemer: &Target, uid: Uuid, issued: &CheckInput) -> Result<RedemptionInput> {
    let mut attempts = Vec::new();
    for path in &args.redemptions {
        attempts.extend(checkout::history::read(path)?);
    }
    checkout::stored::wait_sent(&args.postgres, uid, Duration::from_secs(args.wait_seconds)).await?;
    let rows = checkout::stored::rows(&args.postgres, uid).await?;
    let used = KafkaSettings { topic: args.kafka_used_topic.clone(), ..args.kafka.clone() };
    let messages = checkout::stored::messages(&used, uid).await?;
    let valid_until = issued.history.iter().filter_map(|attempt| {
        let valid_until = attempt.response()?.valid_until?.as_millisecond();
        Some((attempt.coupon()?.0.to_string(), valid_until))
    });
    let valid_until = valid_until.collect();
    let coupons: BTreeSet<_> = attempts.iter().map(|attempt| &*attempt.call.coupon).collect();
    let views = checkout::stored::views(redeemer, &args.event, coupons).await?;
    Ok(RedemptionInput { attempts, rows, views, voids: issued.voids.clone(), valid_until, messages })
}

fn counts(
    input: &CheckInput,
    redemptions: &RedemptionInput,
    report: &Report,
    recorded_after: Duration,
) -> serde_json::Value {
    let mut attempts: BTreeMap<&str, u64> = BTreeMap::new();
    for attempt in &input.history {
        *attempts.entry(OutcomeKind::from(&attempt.outcome).name()).or_default() += 1;
    }
    let mut uses: BTreeMap<&str, u64> = BTreeMap::new();
    for attempt in &redemptions.attempts {
        let outcome = match attempt.decided() {
            Some((200, _)) => attempt.call.operation.kind(),
            Some((409, body)) if checkout::history::problem(body) == "coupon-voided" => "refused as voided",
            Some((409, body)) if checkout::history::problem(body) == "coupon-expired" => "refused as expired",
            Some(_) => "refused",
            None => "unknown",
        };
        *uses.entry(outcome).or_default() += 1;
    }
    let mut voids: BTreeMap<String, u64> = BTreeMap::new();
    for void in &input.voids {
        *voids.entry(format!("{:?}", void.outcome)).or_default() += 1;
    }
    let mut violations: BTreeMap<&str, u64> = BTreeMap::new();
    for result in report.results.iter().filter(|result| result.category != Category::UnknownOutcome) {
        *violations.entry(result.category.name()).or_default() += result.violations;
    }
    let recorded_after = recorded_after.as_secs_f64();
    serde_json::json!({
        "attempts": attempts, "redemptions": uses, "voids": voids, "violations": violations, "recordedAfterSeconds": recorded_after,
    })
}

async fn wait_recorded(stores: &Stores, event: &EventName, timeout: Duration) -> Result<()> {
    // The bar is displayed only on a terminal, the last line always.
    let bar = ProgressBar::new(0);
    let template = "recorded {bar:30} {human_pos}/{human_len}  {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let display = |EventCounts { issued, recorded, marked_recorded, outbox, is_verified }| {
        bar.set_length(issued);
        bar.set_position(recorded.min(marked_recorded));
        bar.set_message(match outbox {
            _ if !is_verified => "Redis is not verified".to_owned(),
            0 => String::new(),
            _ => format!("{} outbox entries", HumanCount(outbox)),
        });
    };
    let counts = stores.wait_recorded(event, timeout, display).await?;
    bar.finish_and_clear();
    let state = if counts.is_recorded() { "all issuances are recorded" } else { "NOT all issuances are recorded" };
    writeln!(Stdout, "{state}: {} issued, {} recorded", HumanCount(counts.issued), HumanCount(counts.recorded))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use couponry_domain::DiscountType;

    use super::*;

    #[test]
    fn expected_count_is_parsed() {
        let expected = |text: &str| text.parse::<Expected>();
        let ten_percent = Discount { kind: DiscountType::Percent, value: 10 };
        assert_eq!(expected("PERCENT:10=70000").unwrap(), Expected(ten_percent, 70_000));
        for bad in ["", "PERCENT:10", "PERCENT=5", "HALF:1=1", "PERCENT:x=1", "PERCENT:10=-1"] {
            assert!(expected(bad).is_err(), "{bad}");
        }
    }
}
