//! Discounts.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The type of a discount. Upper case in Redis, Kafka, HTTP and Postgres; capitalized in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DiscountType {
    /// `value` percent off, 1 to 100.
    Percent,
    /// `value` units of the shop's currency off.
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
    /// Percent, or units of currency.
    pub value: u32,
}

impl fmt::Display for Discount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}
