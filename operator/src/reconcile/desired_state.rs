//! The state that a manifest specifies, as domain types.

use couponry_crds::{CodeSource, CouponEvent, InvalidSpec, IssuingMode};
use couponry_domain::{
    Acknowledge, CodeFormat, CouponBatch, CouponTerms, Discount, EventName, Release, Share, Uuid, Window,
    allocation::split,
};
use couponry_postgres::StoredEvent;
use couponry_runtime::error_chain;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DesiredState {
    pub(crate) uid: Uuid,
    pub(crate) name: EventName,
    /// The generation in the stores: for a continuation, counted on from that of the stored event.
    pub(crate) generation: i64,
    /// `metadata.generation`. Differs from `generation` if the event continues a stored one.
    pub(crate) manifest_generation: i64,
    /// Whether the event continues a stored one, so that it is never registered anew.
    pub(crate) is_continuation: bool,
    /// The stored event of the same name that it replaces.
    pub(crate) replaces: Option<Uuid>,
    pub(crate) policy_name: String,
    pub(crate) format: CodeFormat,
    pub(crate) code_source: CodeSource,
    pub(crate) terms: CouponTerms,
    pub(crate) release: Release,
    pub(crate) total: u64,
    pub(crate) shares: Vec<(Discount, Share)>,
    pub(crate) window: Window,
    /// A hold pauses the event.
    pub(crate) issuance: IssuingMode,
    /// Why issuing is held. None: it is not.
    pub(crate) hold: Option<String>,
    pub(crate) acknowledge: Acknowledge,
    /// When the coupons are to be removed from Redis, by the clock of Redis (milliseconds since the Unix epoch). None:
    /// not before the event is deleted, or not known yet.
    pub(crate) retire_at: Option<i64>,
}

/// Why a manifest cannot be reconciled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidManifest {
    #[error(
        "the object has no valid name or uid, or its annotation {} is not of the form UID/GENERATION",
        couponry_crds::CONTINUES
    )]
    Identity,
    /// The object was stored under an older CRD.
    #[error("the manifest is not valid")]
    Spec(#[from] InvalidSpec),
}

impl DesiredState {
    pub(crate) fn from_manifest(event: &CouponEvent) -> Result<Self, InvalidManifest> {
        let spec = &event.spec;
        Ok(Self {
            uid: event.event_uid().ok_or(InvalidManifest::Identity)?,
            name: event.event_name().ok_or(InvalidManifest::Identity)?,
            generation: event.stored_generation(),
            manifest_generation: event.metadata.generation.unwrap_or_default(),
            is_continuation: event.is_continuation(),
            replaces: event.replaces(),
            policy_name: spec.policy_name.clone(),
            format: spec.code_format(),
            code_source: spec.code_source(),
            terms: spec.terms()?,
            release: spec.release()?,
            total: spec.total_count,
            shares: spec.shares()?,
            window: spec.window(),
            issuance: event.issuance(),
            hold: event.hold(),
            acknowledge: spec.acknowledge,
            retire_at: retire_at(event),
        })
    }

    /// The stock of an event that has none yet. The error describes what is wrong with the manifest.
    pub(crate) fn full_stock(&self) -> Result<Vec<(Discount, u64)>, String> {
        self.split(self.total)
    }

    /// What `existing` coupons, none of which is issued, lack of the full stock. None: some of them do not belong to
    /// it. The error describes what is wrong with the manifest.
    pub(crate) fn missing(&self, existing: &[(Discount, u64)]) -> Result<Option<Vec<(Discount, u64)>>, String> {
        let mut missing = self.full_stock()?;
        for (discount, existing) in existing {
            let Some((_, count)) = missing.iter_mut().find(|(known, count)| known == discount && count >= existing)
            else {
                return Ok(None);
            };
            *count -= existing;
        }
        // A discount without coupons is stored with the others.
        let is_complete = missing.iter().all(|(_, count)| *count == 0);
        Ok(Some(missing).filter(|missing| !is_complete || missing.len() == existing.len()))
    }

    /// The coupons whose codes have to be imported. The error describes what prevents the import.
    pub(crate) fn awaited_codes(&self, stored: &StoredEvent) -> Result<CouponBatch, String> {
        let counts = if stored.is_opening_final {
            self.top_up(&stored.discount_counts)?
        } else {
            let missing = self.missing(&stored.discount_counts)?;
            missing.ok_or("The operator discards the coupons first, because the manifest has changed. Retry later.")?
        };
        Ok(CouponBatch { first_ordinal: stored.generated(), counts })
    }

    /// The coupons to add to `existing` ones, some of which may be issued. With percentages the added coupons are
    /// split by the shares; with counts each discount grows to its count. The error describes the required change of
    /// the manifest.
    pub(crate) fn top_up(&self, existing: &[(Discount, u64)]) -> Result<Vec<(Discount, u64)>, String> {
        let count_of =
            |discount: &Discount| existing.iter().find(|(known, _)| known == discount).map(|(_, count)| *count);
        if self.shares.len() != existing.len() || self.shares.iter().any(|(discount, _)| count_of(discount).is_none()) {
            let discounts: Vec<_> = existing.iter().map(|(discount, _)| discount.to_string()).collect();
            return Err(format!(
                "The event has opened, so its discounts cannot change. Restore the discounts {}.",
                discounts.join(", ")
            ));
        }
        let existing_total: u64 = existing.iter().map(|(_, count)| count).sum();
        let Some(added) = self.total.checked_sub(existing_total) else {
            return Err(format!(
                "The event already has {existing_total} coupons. Raise totalCount to at least {existing_total}."
            ));
        };
        if self.shares.iter().all(|(_, share)| matches!(share, Share::Percentage(_))) {
            return self.split(added);
        }
        self.full_stock()?
            .into_iter()
            .map(|(discount, count)| {
                let existing = count_of(&discount).unwrap_or_default();
                let added = count.checked_sub(existing).ok_or_else(|| {
                    format!(
                        "The event already has {existing} coupons of {discount}. Raise its count to at least \
                         {existing}."
                    )
                })?;
                Ok((discount, added))
            })
            .collect()
    }

    fn split(&self, total: u64) -> Result<Vec<(Discount, u64)>, String> {
        let shares: Vec<Share> = self.shares.iter().map(|(_, share)| *share).collect();
        let counts = split(total, &shares)
            .map_err(|error| format!("The manifest is not valid: {}. Correct the discounts.", error_chain(&error)))?;
        Ok(self.shares.iter().map(|(discount, _)| *discount).zip(counts).collect())
    }
}

/// `ttlSecondsAfterFinished` after the end, or after everything was recorded if that was later: both by the clock of
/// Redis. A closed event ended when it was finished; a sold-out event may still be topped up until its `endTime`.
pub(super) fn retire_at(event: &CouponEvent) -> Option<i64> {
    let spec = &event.spec;
    let ttl = i64::from(spec.ttl_seconds_after_finished?) * 1000;
    let finished = event.status.as_ref()?.finished_at.as_ref()?.0.as_millisecond();
    let end = spec.window().end.filter(|_| spec.issuance != IssuingMode::Closed);
    Some(end.unwrap_or(finished).max(finished) + ttl)
}
