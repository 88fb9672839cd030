//! Gives one coupon to one user over HTTP.
fn main() {}
