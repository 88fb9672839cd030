//! The rules of a coupon event, without I/O and without a clock: how the stock is split ([`allocation`]), generated
//! ([`code`], [`coupon_batch`]), issued ([`window`], [`admission`], [`release`]) and redeemed ([`redemption`]), on
//! which terms ([`terms`]), which names are valid ([`names`]), how hard imported codes are to guess
//! ([`code_statistic`]), and the records of issued and used coupons ([`record`], [`used_record`], the Kafka
//! contracts).

pub mod acknowledge;
pub mod admission;
pub mod allocation;
pub mod code;
pub mod code_statistic;
pub mod coupon_batch;
pub mod currency;
pub mod discount;
#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;
mod hash;
pub mod hex;
pub mod names;
mod permutation;
pub mod pseudonym;
pub mod record;
pub mod redemption;
pub mod release;
pub mod terms;
pub mod used_record;
pub mod validity;
pub mod window;

pub use acknowledge::Acknowledge;
pub use admission::AdmissionKey;
pub use allocation::Share;
pub use code::{CodeFormat, Seed};
pub use coupon_batch::{Coupon, CouponBatch};
pub use currency::Currency;
pub use discount::{Discount, DiscountType};
pub use names::{EventName, OrderId, RequestId, UserId};
pub use pseudonym::PseudonymKey;
pub use record::{IssuedCoupon, IssuedRecord};
pub use release::{Drops, Release, StockDrop};
pub use terms::{CouponTerms, DiscountConditions};
pub use uuid::Uuid;
pub use validity::Validity;
pub use window::{Gate, Window, WindowState};
