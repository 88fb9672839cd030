//! What happens to a coupon. All of it follows from a seed and the number of the coupon.

use rand::rngs::ChaCha20Rng;
use rand::{RngExt as _, SeedableRng as _};

/// What the orders of the shops do with a coupon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    /// Reserved and redeemed.
    Regular,
    /// Redeemed at once.
    Direct,
    /// Redeemed, then once more with another key and by another order.
    Twice,
    /// Redeemed in two requests with the same key at the same time.
    DoubleClick,
    /// Two orders redeem it at the same time; one of them reserves it first.
    Contended,
    /// Reserved, released, and redeemed by another order.
    Released,
    /// Reserved until the reservation has expired, then redeemed by another order, and too late by the first one.
    Expired,
    /// Reserved and never redeemed, while another order wants it.
    Abandoned,
    /// Reserved, then redeemed too late by this and another order: the coupon has expired. Redeemed at once if it does
    /// not expire soon.
    Late,
}

/// The script of a coupon, and whether its first request is sent again at the end.
pub(super) fn draw(seed: u64, number: u64) -> (Script, bool) {
    let mut rng = ChaCha20Rng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let script = match rng.random_range(0..100) {
        0..50 => Script::Regular,
        50..60 => Script::Direct,
        60..66 => Script::Twice,
        66..72 => Script::DoubleClick,
        72..80 => Script::Contended,
        80..90 => Script::Released,
        90..95 => Script::Expired,
        95..99 => Script::Abandoned,
        _ => Script::Late,
    };
    (script, rng.random_range(0..4) == 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn scripts_with_same_seed_are_identical_and_all_occur() {
        let mut counts = BTreeMap::new();
        for number in 0..1000 {
            assert_eq!(draw(1, number), draw(1, number));
            *counts.entry(format!("{:?}", draw(1, number).0)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 9, "{counts:?}");
        assert!((400..600).contains(&counts["Regular"]), "{counts:?}");
        assert!((0..100).any(|number| draw(1, number) != draw(2, number)));
    }
}
