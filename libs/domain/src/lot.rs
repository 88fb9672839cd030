//! A lot: coupons that are added to an event's stock together. The first lot is the event's stock, a top-up is another.

use rand::seq::SliceRandom;

use crate::{
    code::{CodeFormat, Codes, Seed},
    discount::Discount,
};

/// One coupon of the stock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coupon {
    /// Its place in the event's shuffled order, from 0: the order in which coupons are given out.
    pub ordinal: u64,
    /// Its code.
    pub code: String,
    /// What it is worth.
    pub discount: Discount,
}

/// Which coupons to add to the stock of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lot {
    /// The ordinal of its first coupon: how many coupons the event already has.
    pub first_ordinal: u64,
    /// How many coupons of each discount.
    pub counts: Vec<(Discount, u64)>,
}

impl Lot {
    /// How many coupons the lot has.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count).sum()
    }

    /// Whether the lot has no coupon.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The coupons of the lot in shuffled order. The same seed, format and lot give the same coupons.
    ///
    /// Needs one byte a coupon for the shuffle, and some 15 for each code of the event up to here.
    ///
    /// # Panics
    /// With more than 256 discounts; the manifest's schema allows 20.
    pub fn coupons(&self, seed: Seed, format: CodeFormat) -> impl Iterator<Item = Coupon> + Send + use<> {
        let mut order = Vec::with_capacity(usize::try_from(self.len()).expect("a lot fits in memory"));
        for (index, (_, count)) in self.counts.iter().enumerate() {
            let index = u8::try_from(index).expect("at most 256 discounts");
            order.extend(std::iter::repeat_n(index, usize::try_from(*count).expect("a lot fits in memory")));
        }
        // Stream 0 belongs to the codes. No two lots of an event begin at the same ordinal, so each has a stream of its own.
        order.shuffle(&mut seed.stream(1 + self.first_ordinal));

        let expected = usize::try_from(self.first_ordinal + self.len()).expect("a stock fits in memory");
        let mut codes = Codes::new(seed, format, expected);
        codes.skip_codes(self.first_ordinal);
        let discounts: Vec<Discount> = self.counts.iter().map(|(discount, _)| *discount).collect();
        (self.first_ordinal..).zip(order).zip(codes).map(move |((ordinal, index), code)| Coupon {
            ordinal,
            code,
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
    fn a_lot_holds_exactly_what_was_asked_for_in_mixed_order() {
        let lot = Lot { first_ordinal: 0, counts: vec![(TEN_PERCENT, 700), (TEN_WON, 300)] };
        let coupons: Vec<_> = lot.coupons(Seed::from([5; 32]), CodeFormat::default()).collect();
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
        fn lots_follow_each_other_without_gap_or_repetition(first in 0..500u64, more in 0..500u64, seed: [u8; 32]) {
            let seed = Seed::from(seed);
            let lots = [
                Lot { first_ordinal: 0, counts: vec![(TEN_PERCENT, first)] },
                Lot { first_ordinal: first, counts: vec![(TEN_WON, more)] },
            ];
            let coupons: Vec<_> = lots.iter().flat_map(|lot| lot.coupons(seed, CodeFormat::default())).collect();
            prop_assert!(coupons.iter().map(|c| c.ordinal).eq(0..first + more));
            prop_assert_eq!(coupons.iter().map(|c| &c.code).collect::<HashSet<_>>().len() as u64, first + more);
            let again: Vec<_> = lots.iter().flat_map(|lot| lot.coupons(seed, CodeFormat::default())).collect();
            prop_assert_eq!(coupons, again);
        }
    }
}
