//! A plan as JSON.

use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::{estimate::PreloadRate, planned_event::PlannedEvent};

pub(super) fn plan(planned: &PlannedEvent) -> Value {
    let PlannedEvent { event, estimate, findings, namespace } = planned;
    let added: Vec<Value> = estimate
        .added
        .iter()
        .map(|(discount, count)| json!({"type": discount.kind.as_str(), "value": discount.value, "count": count}))
        .collect();
    let drops: Vec<Value> =
        event.spec.drops.iter().map(|drop| json!({"at": drop.at.0.to_string(), "count": drop.count})).collect();
    let overlaps: Vec<Value> =
        findings.overlaps.iter().map(|overlap| json!({"event": overlap.event, "totalCount": overlap.total})).collect();
    let measured_on = match &estimate.preload_rate {
        PreloadRate::Benchmark => None,
        PreloadRate::Measured { event, .. } => Some(event),
    };
    json!({
        "name": event.name_any(),
        "namespace": namespace,
        "checkedByServer": namespace.is_some(),
        "change": findings.change,
        "totalCount": estimate.total,
        "added": added,
        "admissionRampSeconds": event.spec.admission.as_ref().map(|admission| admission.ramp_seconds),
        "availableAtStart": estimate.available_at_start,
        "drops": drops,
        "guessesPerCode": estimate.guesses,
        "redisBytes": {
            "loaded": estimate.redis.loaded,
            "soldOut": estimate.redis.sold_out,
            "soldOutWithoutKafka": estimate.redis.sold_out_without_kafka,
        },
        "postgresBytes": estimate.postgres_bytes,
        "preload": {"seconds": estimate.preload_seconds, "measuredOn": measured_on},
        "overlaps": overlaps,
        "warnings": findings.warnings,
    })
}
