//! What the manifest of an event asks for, in the terms of the stores.

use couponry_crds::{CouponEvent, InvalidSpec, Issuance};
use couponry_domain::{CodeFormat, Discount, EventName, Share, Uuid, Window, allocation::split};
use couponry_redis::Acknowledge;

/// What the manifest asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) uid: Uuid,
    pub(crate) name: EventName,
    pub(crate) generation: i64,
    pub(crate) policy_name: String,
    pub(crate) format: CodeFormat,
    pub(crate) total: u64,
    pub(crate) shares: Vec<(Discount, Share)>,
    pub(crate) window: Window,
    pub(crate) issuance: Issuance,
    pub(crate) acknowledge: Acknowledge,
    /// When the coupons are to leave Redis (milliseconds since the epoch); None: not yet, or only with the event.
    pub(crate) retire_at: Option<i64>,
}

/// Why an event cannot be followed at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// The API server gives every object both.
    #[error("the object has no usable name or uid")]
    Identity,
    /// Stored under an older definition.
    #[error("the manifest is not valid: {0}")]
    Spec(#[from] InvalidSpec),
}

/// So long after the end, or after everything was recorded if that was later. An event that was closed ended then; one that
/// was sold out may still be topped up until its `endTime`.
fn retire_at(event: &CouponEvent) -> Option<i64> {
    let spec = &event.spec;
    let ttl = i64::from(spec.ttl_seconds_after_finished?) * 1000;
    let finished = event.status.as_ref()?.finished_at.as_ref()?.0.as_millisecond();
    let end = spec.window().end.filter(|_| spec.issuance != Issuance::Closed);
    Some(end.unwrap_or(finished).max(finished) + ttl)
}

impl Wanted {
    pub(crate) fn of(event: &CouponEvent) -> Result<Self, Unusable> {
        let spec = &event.spec;
        Ok(Self {
            uid: event.event_uid().ok_or(Unusable::Identity)?,
            name: event.event_id().ok_or(Unusable::Identity)?,
            generation: event.metadata.generation.unwrap_or_default(),
            policy_name: spec.policy_name.clone(),
            format: spec.code_format(),
            total: spec.total_count,
            shares: spec.shares()?,
            window: spec.window(),
            issuance: spec.issuance,
            acknowledge: match spec.acknowledge {
                couponry_crds::Acknowledge::Redis => Acknowledge::Redis,
                couponry_crds::Acknowledge::Kafka => Acknowledge::Kafka,
            },
            retire_at: retire_at(event),
        })
    }

    /// The stock of an event that has none yet. `Err` says what is wrong with the manifest.
    pub(crate) fn whole_stock(&self) -> Result<Vec<(Discount, u64)>, String> {
        self.split(self.total)
    }

    /// What to add to a stock that users may hold coupons of: the added coupons are split by the same shares, counts grow to
    /// what they should be. `Err` says what to change when nothing can be added to make the stock what the manifest asks for.
    pub(crate) fn top_up(&self, have: &[(Discount, u64)]) -> Result<Vec<(Discount, u64)>, String> {
        let held: u64 = have.iter().map(|(_, count)| count).sum();
        let of = |discount: &Discount| have.iter().find(|(known, _)| known == discount).map(|(_, count)| *count);
        if self.shares.len() != have.len() || self.shares.iter().any(|(discount, _)| of(discount).is_none()) {
            let discounts: Vec<_> = have.iter().map(|(discount, _)| discount.to_string()).collect();
            return Err(format!(
                "the event has opened with the discounts {}: put them back as they were",
                discounts.join(", ")
            ));
        }
        let Some(added) = self.total.checked_sub(held) else {
            return Err(format!("the event has opened with {held} coupons: raise totalCount to {held} or more"));
        };
        if self.shares.iter().all(|(_, share)| matches!(share, Share::Percentage(_))) {
            return self.split(added);
        }
        self.whole_stock()?
            .into_iter()
            .map(|(discount, count)| {
                let held = of(&discount).unwrap_or_default();
                let added = count.checked_sub(held).ok_or_else(|| {
                    format!("the event has opened with {held} coupons of {discount}: raise its count to {held} or more")
                })?;
                Ok((discount, added))
            })
            .collect()
    }

    fn split(&self, total: u64) -> Result<Vec<(Discount, u64)>, String> {
        let shares: Vec<Share> = self.shares.iter().map(|(_, share)| *share).collect();
        let counts = split(total, &shares).map_err(|error| error.to_string())?;
        Ok(self.shares.iter().map(|(discount, _)| *discount).zip(counts).collect())
    }
}
