//! Discounts.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The type of a discount. Upper case in Redis, Kafka, HTTP and Postgres; capitalized in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DiscountType {
    /// `value` percent off, 1 to 100.
    Percent,
    /// `value` minor units of the currency off.
    Amount,
}

impl DiscountType {
    /// The name in Redis, Kafka, HTTP and Postgres: `PERCENT` or `AMOUNT`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Percent => "PERCENT",
            Self::Amount => "AMOUNT",
        }
    }
}

impl fmt::Display for DiscountType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DiscountType {
    type Err = UnknownDiscountType;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "PERCENT" => Ok(Self::Percent),
            "AMOUNT" => Ok(Self::Amount),
            _ => Err(UnknownDiscountType(s.to_owned())),
        }
    }
}

/// The text is neither `PERCENT` nor `AMOUNT`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown discount type {0:?}, expected PERCENT or AMOUNT")]
pub struct UnknownDiscountType(String);

/// The discount of a coupon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Discount {
    /// The type.
    pub kind: DiscountType,
    /// Percent, or minor units of the currency.
    pub value: u32,
}

impl Discount {
    /// The amount off an order of this amount, in the same unit: for money, minor units such as cents. A percentage is
    /// rounded down, and the amount is never more than that of the order.
    #[must_use]
    pub fn amount_off(self, order_amount: u64) -> u64 {
        match self.kind {
            DiscountType::Percent => {
                let off = u128::from(order_amount) * u128::from(self.value.min(100)) / 100;
                u64::try_from(off).unwrap_or(order_amount)
            }
            DiscountType::Amount => u64::from(self.value).min(order_amount),
        }
    }
}

impl fmt::Display for Discount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amount_off_is_rounded_down_and_at_most_the_order() {
        let percent = |value| Discount { kind: DiscountType::Percent, value };
        let amount = |value| Discount { kind: DiscountType::Amount, value };
        assert_eq!(percent(10).amount_off(12_345), 1234);
        assert_eq!(percent(100).amount_off(u64::MAX), u64::MAX);
        assert_eq!(percent(1).amount_off(99), 0);
        assert_eq!(amount(5000).amount_off(12_345), 5000);
        assert_eq!(amount(5000).amount_off(4999), 4999);
        assert_eq!(amount(5000).amount_off(0), 0);
    }
}
