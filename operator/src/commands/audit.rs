//! `couponry-operator audit EVENT`: compares the coupons of an event in all stores.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use couponry_audit::{Counts, Report, Verdict};
use couponry_output::Stdout;
use couponry_runtime::telemetry::TelemetryArgs;
use jiff::Timestamp;

use crate::commands::{
    args::{EventArgs, OutputFormat, StoreArgs},
    exit_code::FAILED_OR_INCONCLUSIVE,
    format::{elapsed, group_digits},
};

#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(flatten)]
    event: EventArgs,
    /// Output format.
    #[arg(long, short, value_enum, default_value = "text", value_name = "FORMAT")]
    output: OutputFormat,
    /// How long to wait for issued coupons that are not recorded in Postgres yet.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    wait_seconds: u64,
    #[command(flatten)]
    stores: StoreArgs,
    #[command(flatten)]
    pub(crate) telemetry: TelemetryArgs,
}

impl Audit {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let stores = self.stores.stores()?;
        let uid = self.event.uid(&stores.database).await?;
        let report = stores.audit(&self.event.event, uid, Duration::from_secs(self.wait_seconds)).await?;
        match self.output {
            OutputFormat::Text => write!(Stdout, "{}", text(&report, Timestamp::now()))?,
            OutputFormat::Json => writeln!(Stdout, "{}", serde_json::to_string_pretty(&report)?)?,
        }
        Ok(match report.verdict {
            Verdict::Ok => ExitCode::SUCCESS,
            Verdict::Differs => ExitCode::FAILURE,
            Verdict::Uncertain | Verdict::Delayed => ExitCode::from(FAILED_OR_INCONCLUSIVE),
        })
    }
}

fn text(report: &Report, now: Timestamp) -> String {
    let Report { event, uid, verdict, counts, in_flight, discrepancies, unchecked, notes } = report;
    let Counts {
        generated,
        not_loaded,
        recorded,
        sent,
        resent,
        not_in_kafka: _,
        undecodable,
        dead_letters,
        retired,
        available,
        issued,
        cancelled: _,
        withheld,
        outbox,
        lag,
    } = counts;
    let n = |number: &u64| group_digits(*number);
    let if_any =
        |number: &u64, clause: &str| if *number > 0 { clause.replace("{}", &n(number)) } else { String::new() };
    let repeated = if_any(resent, " ({} more were repeated)");
    let undecodable = if_any(undecodable, ", {} undecodable");
    let not_loaded = if_any(not_loaded, ", {} not loaded yet");
    let withheld = if_any(withheld, ", {} withheld");
    let removed = if *retired { " (before they were removed)" } else { "" };
    let oldest = in_flight.oldest.map_or_else(String::new, |at| format!(", the oldest issued {}", elapsed(at, now)));
    let mut lines = vec![
        ("Postgres", format!("{} coupons, {} of them recorded", n(generated), n(recorded))),
        ("Kafka", format!("{} records{repeated}, {} dead letters{undecodable}", n(sent), n(dead_letters))),
        ("Redis", format!("{} available, {} issued{withheld}{not_loaded}{removed}", n(available), n(issued))),
        (
            "in flight",
            format!("{} coupons{oldest}; {} outbox entries, lag {}", n(&in_flight.coupons), n(outbox), n(lag)),
        ),
    ];
    lines.extend(notes.iter().map(|note| ("note", note.clone())));
    let more = discrepancies.total() - discrepancies.examples.len() as u64;
    let summary = match verdict {
        Verdict::Ok => "OK: Redis, Kafka and Postgres are consistent".to_owned(),
        Verdict::Differs => format!("DIFFERS: {} discrepancies", n(&discrepancies.total())),
        Verdict::Delayed => {
            "DELAYED: no discrepancies found, but issued coupons have not been recorded for more than a \
                             minute; check the consumers, Kafka and Postgres"
                .to_owned()
        }
        Verdict::Uncertain => format!(
            "UNCERTAIN: no discrepancies found, but {} coupons were in flight; repeat the audit when fewer are",
            n(unchecked)
        ),
    };
    let text = std::iter::once(format!("{event} ({uid})\n"))
        .chain(lines.iter().map(|(name, line)| format!("  {name:<10} {line}\n")))
        .chain(discrepancies.examples.iter().map(|example| format!("  ✗ {example}\n")))
        .chain([if_any(&more, "  … and {} more\n"), summary, "\n".to_owned()]);
    text.collect()
}
