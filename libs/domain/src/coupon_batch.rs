//! Batches of coupons that are generated together: the stock of an event, or a top-up.

use rand::seq::SliceRandom;

use crate::{
    code::{CodeFormat, CodeGenerator, CouponCode, Seed},
    discount::Discount,
};

/// A generated coupon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coupon {
    /// Its place in the shuffled order of the event, from 0: coupons are issued in this order.
    pub ordinal: u64,
    /// The code.
    pub code: CouponCode,
    /// The discount.
    pub discount: Discount,
}

/// A batch of coupons to generate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CouponBatch {
    /// The ordinal of the first coupon: how many coupons the event already has.
    pub first_ordinal: u64,
    /// The number of coupons of each discount.
    pub counts: Vec<(Discount, u64)>,
}

impl CouponBatch {
    /// The number of coupons.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count).sum()
    }

    /// Whether the batch has no coupon.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Generates the coupons in shuffled order. The same seed, format and batch result in the same coupons.
    ///
    /// Needs one byte per coupon of the batch, for the shuffle.
    ///
    /// # Panics
    /// With more than 256 discounts; the schema of the manifest allows 20.
    pub fn coupons(&self, seed: Seed, format: CodeFormat) -> impl Iterator<Item = Coupon> + Send + use<> {
        let mut order = Vec::with_capacity(usize::try_from(self.len()).expect("a batch fits in memory"));
        for (index, (_, count)) in self.counts.iter().enumerate() {
            let index = u8::try_from(index).expect("at most 256 discounts");
            order.extend(std::iter::repeat_n(index, usize::try_from(*count).expect("a batch fits in memory")));
        }
        // Stream 0 is for the key of the codes. No two batches of an event begin at the same ordinal, so each has its
        // own stream.
        order.shuffle(&mut seed.stream(1 + self.first_ordinal));

        let codes = CodeGenerator::new(seed, format);
        let discounts: Vec<Discount> = self.counts.iter().map(|(discount, _)| *discount).collect();
        (self.first_ordinal..).zip(order).map(move |(ordinal, index)| Coupon {
            ordinal,
            code: codes.code(ordinal),
            discount: discounts[usize::from(index)],
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;
    use crate::discount::DiscountType::{Amount, Percent};

    const TEN_PERCENT: Discount = Discount { kind: Percent, value: 10 };
    const TEN_WON: Discount = Discount { kind: Amount, value: 10 };

    #[test]
    fn batch_has_exact_counts_in_shuffled_order() {
        let batch = CouponBatch { first_ordinal: 0, counts: vec![(TEN_PERCENT, 700), (TEN_WON, 300)] };
        let coupons: Vec<_> = batch.coupons(Seed::from([5; 32]), CodeFormat::default()).collect();
        assert_eq!(coupons.len(), 1000);
        let mut by_discount = HashMap::new();
        for coupon in &coupons {
            *by_discount.entry(coupon.discount).or_insert(0) += 1;
        }
        assert_eq!(by_discount, HashMap::from([(TEN_PERCENT, 700), (TEN_WON, 300)]));
        let percent_first = coupons.iter().take(700).filter(|c| c.discount == TEN_PERCENT).count();
        assert!((400..600).contains(&percent_first), "not shuffled: {percent_first} of the first 700");
    }

    proptest! {
        #[test]
        fn consecutive_batches_have_no_gap_and_no_duplicate(first in 0..500u64, more in 0..500u64, seed: [u8; 32]) {
            let seed = Seed::from(seed);
            let batches = [
                CouponBatch { first_ordinal: 0, counts: vec![(TEN_PERCENT, first)] },
                CouponBatch { first_ordinal: first, counts: vec![(TEN_WON, more)] },
            ];
            let coupons: Vec<_> = batches.iter().flat_map(|batch| batch.coupons(seed, CodeFormat::default())).collect();
            prop_assert!(coupons.iter().map(|c| c.ordinal).eq(0..first + more));
            prop_assert_eq!(coupons.iter().map(|c| &c.code).collect::<HashSet<_>>().len() as u64, first + more);
            let again: Vec<_> = batches.iter().flat_map(|batch| batch.coupons(seed, CodeFormat::default())).collect();
            prop_assert_eq!(coupons, again);
        }
    }
}
