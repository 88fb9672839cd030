//! A plan as text.

use console::style;
use indicatif::{DecimalBytes, HumanCount};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;

use super::{
    estimate::{Estimate, PreloadRate},
    planned_event::PlannedEvent,
};
use crate::view;

/// More overlaps are only counted.
const MAX_OVERLAPS: usize = 10;

pub(super) fn format(planned: &PlannedEvent, now: Timestamp) -> String {
    let PlannedEvent { event, estimate, findings, namespace } = planned;
    let mut lines = vec![format!("{}  {}", style(event.name_any()).bold(), view::sanitize(&event.spec.policy_name))];
    let mut add = |label: &str, text: String| lines.push(format!("  {label:<11} {text}"));
    add(
        "action",
        match (&findings.change, namespace) {
            (Some(change), Some(_)) => change.clone(),
            (_, Some(namespace)) => format!("creates the event in the namespace {namespace}"),
            (_, None) => "not checked by an API server (--offline)".to_owned(),
        },
    );
    add("coupons", format!("{} in total", HumanCount(estimate.total)));
    for (discount, count) in &estimate.added {
        add("", format!("{} of {discount} are generated", HumanCount(*count)));
    }
    add("codes", codes(planned));
    add("window", view::window(event, now).unwrap_or_else(|| "from when they are loaded until sold out".to_owned()));
    if let Some(admission) = view::admission(event, now) {
        add("admission", admission);
    }
    if !event.spec.drops.is_empty() {
        add("drops", format!("{} available from the start", HumanCount(estimate.available_at_start)));
    }
    for drop in &event.spec.drops {
        add("", format!("{} more at {}", HumanCount(drop.count), view::time(&drop.at)));
    }
    // The estimate has checked the terms.
    let validity = event.spec.terms().ok().and_then(|terms| terms.validity);
    add("validity", validity.map_or_else(|| "without limit".to_owned(), |validity| validity.to_string()));
    if let Some(scaling) = &event.spec.scaling {
        let lead = view::duration(SignedDuration::from_secs(scaling.lead_seconds.into()));
        add("issuers", format!("at least {}, {lead} before the start", scaling.min_replicas));
    }
    let redis = estimate.redis;
    let [loaded, sold_out, without_kafka] =
        [redis.loaded, redis.sold_out, redis.sold_out_without_kafka].map(DecimalBytes);
    add(
        "Redis",
        format!("about {loaded} loaded, {sold_out} sold out, {without_kafka} if Kafka is unavailable meanwhile"),
    );
    add("Postgres", format!("about {} once all are recorded", DecimalBytes(estimate.postgres_bytes)));
    add("preload", preload(estimate));
    for overlap in findings.overlaps.iter().take(MAX_OVERLAPS) {
        let total = HumanCount(overlap.total);
        add(
            "overlaps",
            format!("{}, {total} coupons, {}: they share the issuers and servers", overlap.event, overlap.window),
        );
    }
    if let Some(more) = findings.overlaps.len().checked_sub(MAX_OVERLAPS).filter(|more| *more > 0) {
        add("", format!("and {more} more events"));
    }
    lines.extend(findings.warnings.iter().map(|warning| format!("{} {warning}", style("WARN").yellow())));
    lines.join("\n") + "\n"
}

fn codes(PlannedEvent { event, estimate, .. }: &PlannedEvent) -> String {
    let Some(guesses) = estimate.guesses else { return "imported: their guessability is checked then".to_owned() };
    let format = event.spec.code_format();
    let prefix = format.prefix.map_or_else(String::new, |prefix| format!("{prefix}-"));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 2^60")]
    let guesses = HumanCount(guesses as u64);
    format!("{prefix}{}: one of {guesses} guesses matches a code", "X".repeat(format.length.into()))
}

fn preload(Estimate { preload_seconds, preload_rate, .. }: &Estimate) -> String {
    let Some(seconds) = preload_seconds else { return "depends on the import of the codes".to_owned() };
    #[expect(clippy::cast_possible_truncation, reason = "seconds")]
    let duration = view::duration(SignedDuration::from_secs(seconds.ceil() as i64));
    match preload_rate {
        PreloadRate::Benchmark => {
            format!("about {duration} on the machine of the benchmarks, longer on busy servers (estimate)")
        }
        PreloadRate::Measured { event, coupons, seconds } => {
            let count = HumanCount(*coupons);
            format!("about {duration} (estimate: {count} coupons of {event} took {seconds} s)")
        }
    }
}
