//! The rules of a coupon event, without I/O and without a clock: how the stock is split ([`allocation`]), which codes
//! exist ([`code`], [`lot`]), when coupons are given out ([`window`]), who may be named ([`identity`]) and what is written
//! down when one was given ([`record`], the Kafka contract).

pub mod allocation;
pub mod code;
pub mod discount;
pub mod identity;
pub mod lot;
pub mod record;
#[cfg(any(test, fuzzing))]
pub mod untrusted;
pub mod window;

pub use allocation::Share;
pub use code::{CodeFormat, Seed};
pub use discount::{Discount, DiscountType};
pub use identity::{EventName, UserId};
pub use lot::{Coupon, Lot};
pub use record::IssuedRecord;
pub use uuid::Uuid;
pub use window::{Gate, Verdict, Window};
