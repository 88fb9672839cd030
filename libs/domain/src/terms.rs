//! The terms of the coupons of an event. They are fixed once the event has opened: users have received coupons on these
//! terms.

use std::collections::BTreeMap;

use crate::{currency::Currency, discount::Discount, validity::Validity};

/// The terms of the coupons of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CouponTerms {
    /// How long a coupon is valid. None: unlimited.
    pub validity: Option<Validity>,
    /// The currency of all amounts. None: the shop decides it.
    pub currency: Option<Currency>,
    /// The conditions of those discounts that have any.
    pub conditions: BTreeMap<Discount, DiscountConditions>,
}

/// The conditions of a discount. Amounts are in minor units of the currency, such as cents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiscountConditions {
    /// The maximum amount off an order. None: unlimited.
    pub max_discount: Option<u64>,
    /// The minimum amount of an order. None: any order.
    pub minimum_order_amount: Option<u64>,
}

impl CouponTerms {
    /// What differs, by the names in the manifest.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let Self { validity, currency, conditions } = self;
        let differs = [
            ("validity", *validity != other.validity),
            ("currency", *currency != other.currency),
            ("maxDiscount and minimumOrderAmount", *conditions != other.conditions),
        ];
        differs.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discount::DiscountType;

    #[test]
    fn differences_have_the_names_of_the_manifest() {
        let terms = CouponTerms::default();
        assert!(terms.differences(&terms).is_empty());
        let discount = Discount { kind: DiscountType::Percent, value: 10 };
        let conditions = DiscountConditions { max_discount: Some(1), minimum_order_amount: None };
        let other = CouponTerms {
            validity: Some("P30D UTC".parse().unwrap()),
            currency: Some("EUR".parse().unwrap()),
            conditions: BTreeMap::from([(discount, conditions)]),
        };
        assert_eq!(terms.differences(&other), ["validity", "currency", "maxDiscount and minimumOrderAmount"]);
    }
}
