//! `couponry-operator report EVENT`: the figures of an event as JSON, without users and codes. `kubectl couponry
//! report` formats them.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use couponry_domain::Discount;
use couponry_output::Stdout;
use couponry_postgres::{Database, SaleCurve, SaleFigures, StoredEvent, UseCounts};
use couponry_runtime::telemetry::TelemetryArgs;
use couponry_settings::PostgresSettings;
use serde_json::{Value, json};

use crate::commands::{args::EventArgs, format::rfc3339};

#[derive(Debug, Args)]
pub(crate) struct Report {
    #[command(flatten)]
    event: EventArgs,
    #[command(flatten)]
    postgres: PostgresSettings,
    #[command(flatten)]
    pub(crate) telemetry: TelemetryArgs,
}

impl Report {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let database = Database::open(&self.postgres)?;
        let uid = self.event.uid(&database).await?;
        let stored = database.event(uid).await?;
        let stored = stored.with_context(|| format!("the event {uid} does not exist in Postgres"))?;
        let uses = database.use_counts(uid).await?;
        let figures = database.sale_figures(uid).await?;
        writeln!(Stdout, "{:#}", report(&stored, &figures, uses))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn report(stored: &StoredEvent, figures: &SaleFigures, uses: UseCounts) -> Value {
    let StoredEvent { uid, name, policy_name, opens_at, discount_counts, .. } = stored;
    let SaleFigures { recorded, by_discount, curve } = figures;
    let total = stored.generated();
    let recorded_of =
        |discount: &Discount| by_discount.iter().find(|(known, _)| known == discount).map_or(0, |(_, count)| *count);
    let discounts: Vec<Value> = discount_counts
        .iter()
        .map(|(discount, count)| {
            let (kind, value) = (discount.kind.as_str(), discount.value);
            json!({"type": kind, "value": value, "total": count, "recorded": recorded_of(discount)})
        })
        .collect();
    let is_sold_out = total > 0 && *recorded >= total;
    let sold_out_after = curve.as_ref().zip(*opens_at).filter(|_| is_sold_out);
    let sold_out_after = sold_out_after.map(|(curve, opens_at)| (curve.last_issued_at - opens_at).max(0));
    json!({
        "name": name,
        "uid": uid,
        "policyName": policy_name,
        "openedAt": opens_at.map(rfc3339),
        "total": total,
        "recorded": recorded,
        "soldOutAfterMilliseconds": sold_out_after,
        "discounts": discounts,
        "reserved": uses.reserved,
        "redeemed": uses.redeemed,
        "voided": uses.voided,
        "issuing": curve.as_ref().map(issuing),
    })
}

fn issuing(curve: &SaleCurve) -> Value {
    let SaleCurve { first_issued_at, last_issued_at, peak_per_second, seconds_per_point, points, recording_delay } =
        curve;
    let [median, high, max] = recording_delay;
    let points: Vec<Value> = points.iter().map(|(at, count)| json!([rfc3339(*at), count])).collect();
    json!({
        "firstAt": rfc3339(*first_issued_at),
        "lastAt": rfc3339(*last_issued_at),
        "peakPerSecond": peak_per_second,
        "recordingDelayMilliseconds": {"p50": median, "p99": high, "max": max},
        "secondsPerPoint": seconds_per_point,
        "points": points,
    })
}
