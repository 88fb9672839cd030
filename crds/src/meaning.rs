//! What a manifest means in the terms of [`domain`].
//!
//! The API server has held the manifest to the rules, so the errors here are for objects that were stored under an older
//! definition.

use couponry_domain::{
    CodeFormat, Discount, DiscountType, EventName, Share, Uuid, Window,
    allocation::{AllocationError, split},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use thiserror::Error;

use crate::{CodeSpec, CouponEvent, CouponEventSpec, DiscountKind, DiscountSpec};

/// Why a stored manifest has no meaning.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum InvalidSpec {
    /// A discount with neither or both kinds of share.
    #[error("discount {0} takes either allocationPercentage or count")]
    Share(Discount),
    /// The shares do not make up the stock.
    #[error(transparent)]
    Allocation(#[from] AllocationError),
}

impl DiscountSpec {
    /// What its coupons are worth.
    #[must_use]
    pub const fn discount(&self) -> Discount {
        let kind = match self.kind {
            DiscountKind::Percent => DiscountType::Percent,
            DiscountKind::Amount => DiscountType::Amount,
        };
        Discount { kind, value: self.value }
    }

    /// Its claim on the stock.
    pub const fn share(&self) -> Result<Share, InvalidSpec> {
        match (self.allocation_percentage, self.count) {
            (Some(percent), None) => Ok(Share::Percentage(percent)),
            (None, Some(count)) => Ok(Share::Count(count)),
            _ => Err(InvalidSpec::Share(self.discount())),
        }
    }
}

impl CouponEventSpec {
    /// The discounts and their claims on the stock, in the order of the manifest.
    pub fn shares(&self) -> Result<Vec<(Discount, Share)>, InvalidSpec> {
        self.discounts.iter().map(|spec| Ok((spec.discount(), spec.share()?))).collect()
    }

    /// How many coupons of each discount there are, in the order of the manifest.
    pub fn stock(&self) -> Result<Vec<(Discount, u64)>, InvalidSpec> {
        let (discounts, shares): (Vec<_>, Vec<_>) = self.shares()?.into_iter().unzip();
        Ok(discounts.into_iter().zip(split(self.total_count, &shares)?).collect())
    }

    /// How the codes look.
    #[must_use]
    pub fn code_format(&self) -> CodeFormat {
        self.code.as_ref().map_or_else(CodeFormat::default, |CodeSpec { prefix, length }| CodeFormat {
            prefix: prefix.clone(),
            length: *length,
        })
    }

    /// When coupons are given out.
    #[must_use]
    pub fn window(&self) -> Window {
        let milliseconds = |time: &Time| time.0.as_millisecond();
        Window { start: self.start_time.as_ref().map(milliseconds), end: self.end_time.as_ref().map(milliseconds) }
    }
}

impl CouponEvent {
    /// The name that clients send. None: the object has no name that the API server would give it.
    #[must_use]
    pub fn event_id(&self) -> Option<EventName> {
        self.metadata.name.as_ref()?.parse().ok()
    }

    /// What tells this event from others that had or will have its name. None: the API server has not given it one.
    #[must_use]
    pub fn event_uid(&self) -> Option<Uuid> {
        self.metadata.uid.as_ref()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(yaml: &str) -> CouponEventSpec {
        serde_yaml::from_str(yaml).unwrap()
    }

    #[test]
    fn the_stock_is_split_by_the_manifest() {
        let by_percentage = spec(
            "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, allocationPercentage: 33}, \
             {type: Amount, value: 10, allocationPercentage: 67}]}",
        );
        let percent = Discount { kind: DiscountType::Percent, value: 10 };
        let amount = Discount { kind: DiscountType::Amount, value: 10 };
        assert_eq!(by_percentage.stock(), Ok(vec![(percent, 3), (amount, 7)]));
        let by_count = spec(
            "{policyName: p, totalCount: 10, discounts: [{type: Amount, value: 10, count: 9}, {type: Percent, value: 10, count: 1}]}",
        );
        assert_eq!(by_count.stock(), Ok(vec![(amount, 9), (percent, 1)]));
    }

    #[test]
    fn a_discount_without_a_share_has_no_meaning() {
        let spec = spec("{policyName: p, totalCount: 10, discounts: [{type: Amount, value: 10}]}");
        assert_eq!(
            spec.stock().unwrap_err().to_string(),
            "discount AMOUNT:10 takes either allocationPercentage or count"
        );
    }

    #[test]
    fn what_is_not_said_has_the_default_of_the_domain() {
        let spec = spec("{policyName: p, totalCount: 1, discounts: []}");
        assert_eq!(spec.code_format(), CodeFormat::default());
        assert_eq!(spec.window(), Window::default());
    }

    #[test]
    fn times_are_milliseconds_since_the_epoch() {
        let spec = spec(
            "{policyName: p, totalCount: 1, discounts: [], startTime: '1970-01-01T09:00:01.5+09:00', endTime: '1970-01-01T00:01:00Z'}",
        );
        assert_eq!(spec.window(), Window { start: Some(1500), end: Some(60_000) });
    }
}
