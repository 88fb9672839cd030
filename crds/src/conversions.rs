//! Conversion of a spec into the types of [`couponry_domain`].
//!
//! The API server validates manifests, so errors occur only for objects which were created under an older CRD.

use couponry_domain::{
    CodeFormat, CouponTerms, Discount, DiscountConditions, Drops, EventName, Release, Share, StockDrop, Uuid, Validity,
    Window,
    allocation::AllocationError,
    currency::UnknownCurrency,
    release::InvalidDrops,
    validity::{InvalidValidity, ValidityEnd},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use thiserror::Error;

use crate::spec::{CodeSource, CodeSpec, CouponEvent, CouponEventSpec, DiscountSpec, IssuingMode, ValiditySpec};

/// The spec violates a rule of the CRD.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum InvalidSpec {
    /// A discount with neither or both kinds of share.
    #[error("the discount {0} requires either allocationPercentage or count")]
    Share(Discount),
    /// The shares do not add up to the total.
    #[error(transparent)]
    Allocation(#[from] AllocationError),
    /// The currency is not in use.
    #[error(transparent)]
    Currency(#[from] UnknownCurrency),
    /// The drops are not in the order of their times.
    #[error(transparent)]
    Drops(#[from] InvalidDrops),
    /// The duration or the time zone of the validity is not valid.
    #[error(transparent)]
    Validity(#[from] InvalidValidity),
    /// The validity has neither or both ends.
    #[error("the validity requires either duration or until")]
    ValidityEnd,
}

impl DiscountSpec {
    /// The discount of its coupons.
    #[must_use]
    pub const fn discount(&self) -> Discount {
        Discount { kind: self.kind, value: self.value }
    }

    /// Its share of the coupons.
    pub const fn share(&self) -> Result<Share, InvalidSpec> {
        match (self.allocation_percentage, self.count) {
            (Some(percent), None) => Ok(Share::Percentage(percent)),
            (None, Some(count)) => Ok(Share::Count(count)),
            _ => Err(InvalidSpec::Share(self.discount())),
        }
    }

    /// Its conditions. None: it has no conditions.
    fn conditions(&self) -> Option<DiscountConditions> {
        let &Self { max_discount, minimum_order_amount, .. } = self;
        let conditions = DiscountConditions { max_discount, minimum_order_amount };
        (conditions != DiscountConditions::default()).then_some(conditions)
    }
}

impl ValiditySpec {
    fn validity(&self) -> Result<Validity, InvalidSpec> {
        let end = match (&self.duration, &self.until) {
            (Some(duration), None) => ValidityEnd::After(duration.parse()?),
            (None, Some(until)) => ValidityEnd::At(until.0.as_millisecond()),
            _ => return Err(InvalidSpec::ValidityEnd),
        };
        Ok(Validity::new(end, &self.time_zone, self.end_of_day)?)
    }
}

impl CouponEventSpec {
    /// The discounts and their shares, in the order of the manifest.
    pub fn shares(&self) -> Result<Vec<(Discount, Share)>, InvalidSpec> {
        self.discounts.iter().map(|spec| Ok((spec.discount(), spec.share()?))).collect()
    }

    /// The format of the codes.
    #[must_use]
    pub fn code_format(&self) -> CodeFormat {
        self.code.as_ref().map_or_else(CodeFormat::default, |CodeSpec { source: _, prefix, length }| CodeFormat {
            prefix: prefix.clone(),
            length: *length,
        })
    }

    /// Where the codes come from.
    #[must_use]
    pub fn code_source(&self) -> CodeSource {
        self.code.as_ref().map(|code| code.source).unwrap_or_default()
    }

    /// The terms of the coupons.
    pub fn terms(&self) -> Result<CouponTerms, InvalidSpec> {
        Ok(CouponTerms {
            validity: self.validity.as_ref().map(ValiditySpec::validity).transpose()?,
            currency: self.currency.as_deref().map(str::parse).transpose()?,
            conditions: self.discounts.iter().filter_map(|spec| Some((spec.discount(), spec.conditions()?))).collect(),
        })
    }

    /// How the coupons are released.
    pub fn release(&self) -> Result<Release, InvalidSpec> {
        let drops = self.drops.iter().map(|drop| StockDrop { at: drop.at.0.as_millisecond(), count: drop.count });
        Ok(Release {
            ramp_seconds: self.admission.as_ref().map(|admission| admission.ramp_seconds),
            drops: Drops::new(drops.collect())?,
        })
    }

    /// The time window of issuing. It ends when all coupons expire, or before.
    #[must_use]
    pub fn window(&self) -> Window {
        let milliseconds = |time: &Time| time.0.as_millisecond();
        let expiry = self.validity.as_ref().and_then(|validity| validity.validity().ok()?.fixed_end());
        let end = self.end_time.as_ref().map(milliseconds).into_iter().chain(expiry).min();
        Window { start: self.start_time.as_ref().map(milliseconds), end }
    }
}

/// The event continues a stored one, which had another uid or a later generation before Kubernetes
/// was restored: `UID/GENERATION`, the uid in the stores, and the stored generation, to which the generations of this
/// object are added.
pub const CONTINUES: &str = "couponry.dev/continues";

/// The event replaces a stored one of the same name, whose deletion the operator has not seen: its uid.
pub const REPLACES: &str = "couponry.dev/replaces";

/// Issuing is held while the annotation is present, with any value, which is the reason: the gate is `PAUSED` without a
/// change of the spec, which a GitOps tool would revert. `issuance: Closed` takes precedence.
pub const HOLD: &str = "couponry.dev/hold";

/// The reason of a hold whose annotation has no text.
const NO_REASON: &str = "no reason given";

/// A longer reason of a hold is truncated. The reason is part of the message of a condition.
const MAX_HOLD_REASON_CHARS: usize = 200;

/// The uid and the generation that an object has in the stores: its own, unless it continues a stored event. `None`:
/// the object is not stored yet, or its annotation is not valid.
#[must_use]
pub fn stored_identity(metadata: &ObjectMeta) -> Option<(Uuid, i64)> {
    let generation = metadata.generation.unwrap_or_default();
    let Some(continued) = metadata.annotations.as_ref().and_then(|all| all.get(CONTINUES)) else {
        return Some((metadata.uid.as_ref()?.parse().ok()?, generation));
    };
    let (uid, preceding) = continued.split_once('/')?;
    Some((uid.parse().ok()?, generation.checked_add(preceding.parse().ok()?)?))
}

impl CouponEvent {
    /// The name of the event. `None`: the object has no valid name.
    #[must_use]
    pub fn event_name(&self) -> Option<EventName> {
        self.metadata.name.as_ref()?.parse().ok()
    }

    /// The UID in the stores, which distinguishes events of the same name. `None`: the object is not stored yet, or its
    /// annotation [`CONTINUES`] is not valid.
    #[must_use]
    pub fn event_uid(&self) -> Option<Uuid> {
        stored_identity(&self.metadata).map(|(uid, _)| uid)
    }

    /// The generation in the stores. It increases with each change of the manifest.
    #[must_use]
    pub fn stored_generation(&self) -> i64 {
        stored_identity(&self.metadata).map_or(0, |(_, generation)| generation)
    }

    /// Whether it continues a stored event.
    #[must_use]
    pub fn is_continuation(&self) -> bool {
        self.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(CONTINUES))
    }

    /// Why issuing is held, without control and formatting characters and of limited length. `None`: it is not held, or
    /// it is closed, which is final.
    #[must_use]
    pub fn hold(&self) -> Option<String> {
        let value = self.metadata.annotations.as_ref()?.get(HOLD)?;
        (self.spec.issuance != IssuingMode::Closed).then(|| hold_reason(value))
    }

    /// How coupons are issued. A hold pauses the event.
    #[must_use]
    pub fn issuance(&self) -> IssuingMode {
        if self.hold().is_some() { IssuingMode::Paused } else { self.spec.issuance }
    }

    /// The UID of the stored event that it replaces.
    #[must_use]
    pub fn replaces(&self) -> Option<Uuid> {
        self.metadata.annotations.as_ref()?.get(REPLACES)?.parse().ok()
    }
}

/// The text of an annotation [`HOLD`], for a message.
fn hold_reason(value: &str) -> String {
    // Line and paragraph separators, and bidirectional formatting characters.
    let is_formatting =
        |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let printable: String = value.chars().filter(|c| !c.is_control() && !is_formatting(*c)).collect();
    let text = printable.trim();
    match text.char_indices().nth(MAX_HOLD_REASON_CHARS) {
        _ if text.is_empty() => NO_REASON.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use couponry_domain::{DiscountType, allocation::split};

    use super::*;

    fn stock(spec: &CouponEventSpec) -> Result<Vec<(Discount, u64)>, InvalidSpec> {
        let (discounts, shares): (Vec<_>, Vec<_>) = spec.shares()?.into_iter().unzip();
        Ok(discounts.into_iter().zip(split(spec.total_count, &shares)?).collect())
    }

    fn spec(yaml: &str) -> CouponEventSpec {
        serde_yaml::from_str(yaml).unwrap()
    }

    #[test]
    fn shares_split_total_count_by_percentage_or_count() {
        let by_percentage = spec(
            "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, allocationPercentage: 33}, \
             {type: Amount, value: 10, allocationPercentage: 67}]}",
        );
        let percent = Discount { kind: DiscountType::Percent, value: 10 };
        let amount = Discount { kind: DiscountType::Amount, value: 10 };
        assert_eq!(stock(&by_percentage), Ok(vec![(percent, 3), (amount, 7)]));
        let by_count = spec(
            "{policyName: p, totalCount: 10, discounts: [{type: Amount, value: 10, count: 9}, \
             {type: Percent, value: 10, count: 1}]}",
        );
        assert_eq!(stock(&by_count), Ok(vec![(amount, 9), (percent, 1)]));
    }

    #[test]
    fn hold_pauses_an_event_unless_it_is_closed() {
        let event = |annotations: &str, issuance: &str| -> CouponEvent {
            serde_yaml::from_str(&format!(
                "{{apiVersion: couponry.dev/v1alpha1, kind: CouponEvent, metadata: {{name: summer, annotations: \
                 {annotations}}}, spec: {{policyName: p, totalCount: 1, issuance: {issuance}, discounts: []}}}}"
            ))
            .unwrap()
        };
        let held = event("{couponry.dev/hold: wrong discount}", "Auto");
        assert_eq!((held.hold().as_deref(), held.issuance()), (Some("wrong discount"), IssuingMode::Paused));
        let paused = event("{couponry.dev/hold: wrong discount}", "Paused");
        assert_eq!((paused.hold().as_deref(), paused.issuance()), (Some("wrong discount"), IssuingMode::Paused));
        let closed = event("{couponry.dev/hold: wrong discount}", "Closed");
        assert_eq!((closed.hold(), closed.issuance()), (None, IssuingMode::Closed));
        let other = event("{couponry.dev/holder: x}", "Auto");
        assert_eq!((other.hold(), other.issuance()), (None, IssuingMode::Auto));
    }

    #[test]
    fn hold_reason_is_printable_and_of_limited_length() {
        for empty in ["", "  ", "\n\u{202e}\u{1b}"] {
            assert_eq!(hold_reason(empty), "no reason given", "{empty:?}");
        }
        assert_eq!(hold_reason("false"), "false");
        assert_eq!(hold_reason(" wrong\u{1b}[2J\r\n \u{2066}값 "), "wrong[2J 값");
        assert_eq!(hold_reason(&"값".repeat(200)), "값".repeat(200));
        assert_eq!(hold_reason(&"값".repeat(10_000)), format!("{}…", "값".repeat(200)));
    }

    #[test]
    fn discount_without_share_is_invalid() {
        let spec = spec("{policyName: p, totalCount: 10, discounts: [{type: Amount, value: 10}]}");
        assert_eq!(
            stock(&spec).unwrap_err().to_string(),
            "the discount AMOUNT:10 requires either allocationPercentage or count"
        );
    }

    #[test]
    fn terms_have_conditions_of_discounts_that_have_any() {
        let spec = |currency: &str| {
            spec(&format!(
                "{{policyName: p, totalCount: 10, currency: {currency}, discounts: [{{type: Amount, value: 10, count: 9}}, \
                 {{type: Percent, value: 10, count: 1, maxDiscount: 500, minimumOrderAmount: 1000}}]}}"
            ))
        };
        let terms = spec("EUR").terms().unwrap();
        assert_eq!(terms.currency, Some("EUR".parse().unwrap()));
        let conditions = DiscountConditions { max_discount: Some(500), minimum_order_amount: Some(1000) };
        let percent = Discount { kind: DiscountType::Percent, value: 10 };
        assert_eq!(terms.conditions.into_iter().collect::<Vec<_>>(), [(percent, conditions)]);
        assert_eq!(
            spec("eur").terms().unwrap_err().to_string(),
            "unknown currency \"eur\", expected a code of ISO 4217 in capital letters, such as EUR"
        );
    }

    #[test]
    fn omitted_fields_have_defaults_of_domain() {
        let spec = spec("{policyName: p, totalCount: 1, discounts: []}");
        assert_eq!(spec.code_format(), CodeFormat::default());
        assert_eq!(spec.terms(), Ok(CouponTerms::default()));
        assert_eq!(spec.window(), Window::default());
    }

    #[test]
    fn validity_is_converted_and_checked() {
        let validity = |fields: &str| {
            spec(&format!("{{policyName: p, totalCount: 1, discounts: [], validity: {{{fields}}}}}"))
                .terms()
                .map(|terms| terms.validity.map(|validity| validity.to_string()).unwrap_or_default())
                .map_err(|error| error.to_string())
        };
        for (fields, expected) in [
            ("duration: P1M", "P1M UTC"),
            ("duration: P30D, timeZone: Asia/Seoul, endOfDay: true", "P30D Asia/Seoul end-of-day"),
            ("until: '2026-12-31T23:00:00+09:00', timeZone: Asia/Seoul", "2026-12-31T14:00:00Z Asia/Seoul"),
        ] {
            assert_eq!(validity(fields).as_deref(), Ok(expected));
        }
        for (fields, expected) in [
            ("", "the validity requires either duration or until"),
            ("duration: P1D, until: '2026-12-31T23:00:00Z'", "the validity requires either duration or until"),
            ("duration: 30d", "invalid duration \"30d\""),
            ("duration: P1D, timeZone: Europe/Atlantis", "unknown time zone \"Europe/Atlantis\""),
        ] {
            let error = validity(fields).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn window_ends_when_all_coupons_expire_or_before() {
        let end =
            |fields: &str| spec(&format!("{{policyName: p, totalCount: 1, discounts: [], {fields}}}")).window().end;
        let until = "validity: {until: '1970-01-01T00:01:00Z', timeZone: Asia/Seoul";
        assert_eq!(end(&format!("{until}}}")), Some(60_000));
        assert_eq!(end(&format!("{until}}}, endTime: '1970-01-01T00:00:59Z'")), Some(59_000));
        assert_eq!(end(&format!("{until}}}, endTime: '1970-01-02T00:00:00Z'")), Some(60_000));
        // 15 hours later, it is midnight in Seoul.
        assert_eq!(end(&format!("{until}, endOfDay: true}}")), Some(15 * 3_600_000));
        assert_eq!(end("validity: {duration: P1D}"), None);
    }

    #[test]
    fn annotation_determines_uid_and_generation_in_the_stores() {
        let identity = |annotations: &str| {
            let uid = Uuid::from_u128(1);
            let metadata = format!("{{uid: {uid}, generation: 2, annotations: {{{annotations}}}}}");
            stored_identity(&serde_yaml::from_str(&metadata).unwrap())
        };
        let stored = Uuid::from_u128(2);
        assert_eq!(identity(""), Some((Uuid::from_u128(1), 2)));
        assert_eq!(identity(&format!("couponry.dev/continues: {stored}/7")), Some((stored, 9)));
        for invalid in ["", "7", "x/7", &stored.to_string(), &format!("{stored}/{}", i64::MAX)] {
            assert_eq!(identity(&format!("couponry.dev/continues: '{invalid}'")), None, "{invalid}");
        }
    }

    #[test]
    fn window_is_in_milliseconds_since_epoch() {
        let spec = spec(
            "{policyName: p, totalCount: 1, discounts: [], startTime: '1970-01-01T09:00:01.5+09:00', \
             endTime: '1970-01-01T00:01:00Z'}",
        );
        assert_eq!(spec.window(), Window { start: Some(1500), end: Some(60_000) });
    }
}
