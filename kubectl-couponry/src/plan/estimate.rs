//! Computes what would be generated for an event. The figures are estimates from the measurements in
//! `docs/operate/sizing.md` and `docs/benchmarks.md`.

use anyhow::{Context as _, ensure};
use couponry_crds::{CodeSource, CouponEvent, status::condition};
use couponry_domain::{Discount, Share, allocation::split};
use kube::ResourceExt as _;

/// Memory in Redis of a queue entry, in addition to its text.
const QUEUE_OVERHEAD: u64 = 3;
/// Memory in Redis of an issued coupon whose code has 19 characters, with a user id of 36 bytes.
const ISSUED_BYTES: u64 = 155;
const ISSUED_CODE_LEN: u64 = 19;
/// Additional memory in Redis until Kafka has confirmed the record.
const OUTBOX_BYTES: u64 = 103;
/// Disk in Postgres of a coupon and of its issuance, with their indexes.
const POSTGRES_BYTES: u64 = 193 + 321;
/// The text of an imported code is not known before; 19 characters as in generated ones with a prefix.
const IMPORTED_CODE_LEN: u64 = ISSUED_CODE_LEN;
/// Coupons per second of a preload in the benchmarks.
const BENCHMARK_RATE: f64 = 600_000.0;
/// Fewer coupons are loaded too fast to measure it in whole seconds.
const MIN_MEASURED: u64 = 50_000;

/// What would be generated.
#[derive(Debug, PartialEq)]
pub(super) struct Estimate {
    /// Coupons that would be added, by discount.
    pub(super) added: Vec<(Discount, u64)>,
    /// How many coupons the event would have.
    pub(super) total: u64,
    /// Those that no drop holds back.
    pub(super) available_at_start: u64,
    /// One of this many guesses matches a code. None: the codes are imported.
    pub(super) guesses: Option<f64>,
    pub(super) redis: RedisBytes,
    /// Disk once all coupons are issued and recorded.
    pub(super) postgres_bytes: u64,
    /// None: the codes are imported.
    pub(super) preload_seconds: Option<f64>,
    pub(super) preload_rate: PreloadRate,
}

/// Memory of the event in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RedisBytes {
    pub(super) loaded: u64,
    pub(super) sold_out: u64,
    /// If Kafka does not accept any record.
    pub(super) sold_out_without_kafka: u64,
}

/// How fast coupons are generated and loaded.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PreloadRate {
    /// On the machine of the benchmarks.
    Benchmark,
    /// By this installation, for another event.
    Measured { event: String, coupons: u64, seconds: i64 },
}

impl PreloadRate {
    /// That of the latest event whose preload can be measured.
    pub(super) fn measured<'a>(events: impl Iterator<Item = &'a CouponEvent>) -> Option<Self> {
        let measured = events.filter_map(|event| {
            let status = event.status.as_ref()?;
            let condition = status.condition(condition::PRELOADED).filter(|condition| condition.status == "True")?;
            let (created, completed) = (event.creation_timestamp()?.0, condition.last_transition_time.0);
            let coupons = status.loaded.filter(|loaded| *loaded >= MIN_MEASURED)?;
            // A change of the manifest may have started another preload.
            let is_first = event.metadata.generation == Some(1) && event.spec.code_source() == CodeSource::Generated;
            let seconds = completed.duration_since(created).as_secs().max(1);
            is_first.then(|| (completed, Self::Measured { event: event.name_any(), coupons, seconds }))
        });
        measured.max_by_key(|(completed, _)| *completed).map(|(_, rate)| rate)
    }

    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn seconds(&self, count: u64) -> f64 {
        let rate = match self {
            Self::Benchmark => BENCHMARK_RATE,
            Self::Measured { coupons, seconds, .. } => *coupons as f64 / *seconds as f64,
        };
        (count as f64 / rate).max(1.0)
    }
}

impl Estimate {
    /// `existing`: the event of this name that the manifest changes.
    pub(super) fn new(
        event: &CouponEvent,
        existing: Option<&CouponEvent>,
        preload_rate: PreloadRate,
    ) -> anyhow::Result<Self> {
        let spec = &event.spec;
        spec.terms().context("the manifest is not valid")?;
        let held_back = spec.release().context("the manifest is not valid")?.drops.held_back(i64::MIN);
        let available_at_start = spec
            .total_count
            .checked_sub(held_back)
            .with_context(|| format!("the drops have {held_back} coupons, the event only {}", spec.total_count))?;
        let stock = stock(event, spec.total_count)?;
        let added = match existing.filter(|existing| has_opened(existing)) {
            None => stock.clone(),
            Some(existing) => top_up(event, existing, &stock)?,
        };
        let is_imported = spec.code_source() == CodeSource::Imported;
        let format = spec.code_format();
        let code_len = if is_imported {
            IMPORTED_CODE_LEN
        } else {
            format.prefix.as_ref().map_or(0, |prefix| prefix.len() as u64 + 1) + u64::from(format.length)
        };
        let queue: u64 = stock
            .iter()
            .map(|(discount, count)| count * (code_len + 1 + discount.to_string().len() as u64 + QUEUE_OVERHEAD))
            .sum();
        let issued = spec.total_count * (ISSUED_BYTES + code_len).saturating_sub(ISSUED_CODE_LEN);
        let added_count: u64 = added.iter().map(|(_, count)| count).sum();
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let guesses = 32_f64.powi(format.length.into()) / spec.total_count.max(1) as f64;
        Ok(Self {
            added,
            total: spec.total_count,
            available_at_start,
            guesses: (!is_imported).then_some(guesses),
            redis: RedisBytes {
                loaded: queue,
                sold_out: issued,
                sold_out_without_kafka: issued + spec.total_count * OUTBOX_BYTES,
            },
            postgres_bytes: spec.total_count * POSTGRES_BYTES,
            preload_seconds: (!is_imported).then(|| preload_rate.seconds(added_count)),
            preload_rate,
        })
    }
}

/// Whether the event keeps its coupons.
pub(super) fn has_opened(event: &CouponEvent) -> bool {
    event.status.as_ref().is_some_and(|status| status.opened_at.is_some())
}

fn stock(event: &CouponEvent, total: u64) -> anyhow::Result<Vec<(Discount, u64)>> {
    let (discounts, shares): (Vec<_>, Vec<Share>) =
        event.spec.shares().context("the discounts are not valid")?.into_iter().unzip();
    let counts = split(total, &shares).context("the discounts are not valid")?;
    Ok(discounts.into_iter().zip(counts).collect())
}

/// What a change of an event that has opened adds, as the operator computes it.
fn top_up(
    event: &CouponEvent,
    existing: &CouponEvent,
    stock: &[(Discount, u64)],
) -> anyhow::Result<Vec<(Discount, u64)>> {
    let (new, old) = (event.spec.total_count, existing.spec.total_count);
    ensure!(new >= old, "the event has opened with {old} coupons: totalCount cannot be lowered");
    if event.spec.discounts.iter().all(|discount| discount.allocation_percentage.is_some()) {
        return self::stock(event, new - old);
    }
    let before = self::stock(existing, old)?;
    let count_of = |discount: &Discount| before.iter().find(|(known, _)| known == discount).map_or(0, |(_, n)| *n);
    Ok(stock.iter().map(|(discount, count)| (*discount, count.saturating_sub(count_of(discount)))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(spec: &str, rest: &str) -> CouponEvent {
        let yaml = format!(
            "{{apiVersion: couponry.dev/v1alpha1, kind: CouponEvent, metadata: {{name: summer, generation: 1, \
             creationTimestamp: '2026-12-01T00:00:00Z'}}, spec: {{policyName: p, {spec}}}{rest}}}"
        );
        serde_yaml::from_str(&yaml).unwrap()
    }

    const SHARES: &str = "discounts: [{type: Percent, value: 10, allocationPercentage: 33}, \
                          {type: Amount, value: 5000, allocationPercentage: 67}]";
    const OPENED: &str = ", status: {openedAt: '2026-12-01T00:00:00Z'}";

    fn added(estimate: &Estimate) -> Vec<(String, u64)> {
        estimate.added.iter().map(|(discount, count)| (discount.to_string(), *count)).collect()
    }

    #[test]
    fn estimate_of_new_event_has_the_figures_of_the_sizing_page() {
        let event = event(
            "totalCount: 1000000, code: {prefix: SUMMER}, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]",
            "",
        );
        let estimate = Estimate::new(&event, None, PreloadRate::Benchmark).unwrap();
        let RedisBytes { loaded, sold_out, sold_out_without_kafka } = estimate.redis;
        assert_eq!((loaded, sold_out, sold_out_without_kafka), (33_000_000, 155_000_000, 258_000_000));
        assert_eq!(estimate.postgres_bytes, 514_000_000);
        assert!((1.6..1.7).contains(&estimate.preload_seconds.unwrap()));
        // 60 bits for 20 bits of coupons.
        let bits = estimate.guesses.unwrap().log2();
        assert!((40.0..40.1).contains(&bits), "{bits}");
    }

    #[test]
    fn estimate_splits_the_stock_or_what_a_top_up_adds() {
        let new = |spec: &str, existing: Option<&CouponEvent>| {
            Estimate::new(&event(spec, ""), existing, PreloadRate::Benchmark).map(|estimate| added(&estimate))
        };
        let counts = |percent, amount| vec![("PERCENT:10".to_owned(), percent), ("AMOUNT:5000".to_owned(), amount)];
        assert_eq!(new(&format!("totalCount: 10, {SHARES}"), None).unwrap(), counts(3, 7));
        let opened = event(&format!("totalCount: 10, {SHARES}"), OPENED);
        assert_eq!(new(&format!("totalCount: 13, {SHARES}"), Some(&opened)).unwrap(), counts(1, 2));
        let scheduled = event(&format!("totalCount: 10, {SHARES}"), "");
        assert_eq!(new(&format!("totalCount: 13, {SHARES}"), Some(&scheduled)).unwrap(), counts(4, 9));
        let error = new(&format!("totalCount: 9, {SHARES}"), Some(&opened)).unwrap_err();
        assert!(error.to_string().contains("cannot be lowered"), "{error}");

        let by_counts = |percent: u64, amount: u64| {
            format!(
                "totalCount: {}, discounts: [{{type: Percent, value: 10, count: {percent}}}, \
                 {{type: Amount, value: 5000, count: {amount}}}]",
                percent + amount
            )
        };
        let opened = event(&by_counts(7, 3), OPENED);
        assert_eq!(new(&by_counts(7, 13), Some(&opened)).unwrap(), counts(0, 10));
        let drops = |counts: [u64; 2]| {
            let [first, second] = counts;
            format!(
                "totalCount: 10, {SHARES}, drops: [{{at: '2026-12-01T01:00:00Z', count: {first}}}, \
                 {{at: '2026-12-01T02:00:00Z', count: {second}}}]"
            )
        };
        let later = Estimate::new(&event(&drops([3, 5]), ""), None, PreloadRate::Benchmark).unwrap();
        assert_eq!((later.available_at_start, later.total), (2, 10));
        let error = new(&drops([3, 8]), None).unwrap_err();
        assert!(error.to_string().contains("the drops have 11 coupons, the event only 10"), "{error}");

        let wrong = new("totalCount: 10, discounts: [{type: Percent, value: 10, count: 9}]", None).unwrap_err();
        assert!(format!("{wrong:#}").contains("the counts sum to 9, not to 10"), "{wrong:#}");
    }

    #[test]
    fn preload_rate_is_that_of_the_latest_measured_event() {
        let status = |loaded: u64, completed: &str| {
            format!(
                ", status: {{loaded: {loaded}, conditions: [{{type: Preloaded, status: 'True', reason: StockComplete, \
                 message: '', lastTransitionTime: '{completed}'}}]}}"
            )
        };
        let spec = format!("totalCount: 100000, {SHARES}");
        let measured = |events: &[CouponEvent]| PreloadRate::measured(events.iter());
        assert_eq!(measured(&[event(&spec, ""), event(&spec, &status(10, "2026-12-01T00:00:09Z"))]), None);
        let early = event(&spec, &status(100_000, "2026-12-01T00:00:04Z"));
        let late = event(&spec, &status(200_000, "2026-12-01T00:00:10Z"));
        let expected = PreloadRate::Measured { event: "summer".into(), coupons: 200_000, seconds: 10 };
        assert_eq!(measured(&[late, early]), Some(expected.clone()));
        assert!((expected.seconds(1_000_000) - 50.0).abs() < 0.001);
        assert!((expected.seconds(1) - 1.0).abs() < 0.001);
    }
}
