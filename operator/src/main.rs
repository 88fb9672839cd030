//! Turns CouponEvents into stock in Postgres and Redis, and reports on them.
fn main() {}
