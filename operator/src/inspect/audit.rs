//! `couponry-operator audit EVENT`.

use std::{fmt::Write as _, process::ExitCode, time::Duration};

use clap::Args;
use couponry_audit::{Counts, Report, Verdict};
use couponry_runtime::telemetry::Telemetry;
use jiff::Timestamp;

use super::{
    EventArgs, Output, StoreArgs,
    words::{ago, grouped},
};

#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(flatten)]
    event: EventArgs,
    /// How to say it.
    #[arg(long, short, value_enum, default_value = "text", value_name = "FORM")]
    output: Output,
    /// How long to wait for what is on its way from Redis to Postgres.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    wait: u64,
    #[command(flatten)]
    stores: StoreArgs,
    #[command(flatten)]
    pub(crate) telemetry: Telemetry,
}

impl Audit {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let stores = self.stores.stores()?;
        let uid = self.event.uid(&stores.database).await?;
        let report = stores.audit(&self.event.event, uid, Duration::from_secs(self.wait)).await?;
        match self.output {
            Output::Text => print!("{}", text(&report, Timestamp::now())),
            Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        }
        Ok(match report.verdict {
            Verdict::Ok => ExitCode::SUCCESS,
            Verdict::Differs => ExitCode::FAILURE,
            Verdict::Uncertain => ExitCode::from(super::COULD_NOT_LOOK),
        })
    }
}

fn text(report: &Report, now: Timestamp) -> String {
    let Report { event, uid, verdict, counts, in_flight, differences, unchecked, notes } = report;
    let Counts {
        stocked,
        not_loaded,
        recorded,
        sent,
        sent_again,
        topic_is_whole: _,
        unreadable,
        dead_letters,
        retired,
        available,
        held,
        voided,
        outbox,
        lag,
    } = counts;
    let mut text = format!("{event} ({uid})\n");
    let mut line = |name: &str, words: String| writeln!(text, "  {name:<10} {words}").expect("a string takes it");
    let n = |number: &u64| grouped(*number);
    line("Postgres", format!("{} coupons, {} of them recorded", n(stocked), n(recorded)));
    let again = if *sent_again > 0 { format!(" ({} more were repeated)", n(sent_again)) } else { String::new() };
    let unreadable = if *unreadable > 0 { format!(", {} unreadable", n(unreadable)) } else { String::new() };
    line("Kafka", format!("{} records{again}, {} dead letters{unreadable}", n(sent), n(dead_letters)));
    let loaded = if *not_loaded > 0 { format!(", {} not loaded yet", n(not_loaded)) } else { String::new() };
    let voided = if *voided > 0 { format!(", {} voided", n(voided)) } else { String::new() };
    let before = if *retired { ", before they left" } else { "" };
    line("Redis", format!("{} available, {} held{voided}{loaded}{before}", n(available), n(held)));
    let oldest = in_flight.oldest.map_or_else(String::new, |at| format!(", the first issued {}", ago(at, now)));
    let way = format!("{} coupons{oldest}; {} batches in the outbox, lag {}", n(&in_flight.coupons), n(outbox), n(lag));
    line("on the way", way);
    for note in notes {
        line("note", note.clone());
    }
    for difference in &differences.examples {
        writeln!(text, "  ✗ {difference}").expect("a string takes it");
    }
    let more = differences.total() - differences.examples.len() as u64;
    if more > 0 {
        writeln!(text, "  … and {} more", grouped(more)).expect("a string takes it");
    }
    let verdict = match verdict {
        Verdict::Ok => "OK: Redis, Kafka and Postgres tell one story".to_owned(),
        Verdict::Differs => format!("DIFFERS: {} differences", grouped(differences.total())),
        Verdict::Uncertain => {
            let unchecked = grouped(*unchecked);
            format!(
                "UNCERTAIN: no difference found, but {unchecked} coupons were in motion; ask again when it is quieter"
            )
        }
    };
    text + &verdict + "\n"
}
