//! Shops that use issued coupons at redeemers.
//!
//! - [`IssuedCoupons`] reads the coupons from the history of the users who received them, also while it is written.
//! - [`script`] decides what happens to a coupon: most are reserved and redeemed, others compete.
//! - [`drive`] sends the requests, retries them until their outcome is known, and logs every attempt in a [`history`].
//! - [`stored`] reads what became of the coupons, for the checker.
//! - [`void_history`] has the voids of administrators.

mod driver;
pub mod history;
mod issued_coupons;
mod script;
mod statistics;
pub mod stored;
pub mod void_history;

pub use driver::{Checkout, drive};
pub use issued_coupons::{HeldCoupon, IssuedCoupons};
pub use statistics::Statistics;
