//! CPU time of Redis for each call, measured on a noisy machine with two cores and AOF `everysec`. Use it for ratios
//! only.

/// Calls that issue coupons: users per call, and users per second with consecutive calls.
const ISSUE: [(f64, f64); 4] = [(1.0, 20e3), (8.0, 63e3), (32.0, 152e3), (128.0, 184e3)];
/// The same for calls that return `SOLD_OUT`.
const SOLD_OUT: [(f64, f64); 2] = [(1.0, 55e3), (32.0, 557e3)];
/// Deletion of an outbox entry (µs). Assumed.
pub(super) const CONFIRM: f64 = 5.0;
/// Observation of a shard by the mover (µs). Assumed: like a call that returns one `SOLD_OUT`.
pub(super) const OBSERVE: f64 = 18.0;

/// CPU time (µs) of a call that issues `issued` coupons and returns `SOLD_OUT` to `sold_out` users.
pub(super) fn call(issued: usize, sold_out: usize) -> f64 {
    match (issued, sold_out) {
        (0, sold_out) => interpolate(&SOLD_OUT, float(sold_out)),
        (issued, 0) => interpolate(&ISSUE, float(issued)) + CONFIRM,
        // Only the cost of the additional users, not of another call.
        (issued, sold_out) => {
            call(issued, 0) + interpolate(&SOLD_OUT, float(sold_out + 1)) - interpolate(&SOLD_OUT, 1.0)
        }
    }
}

/// CPU time (µs) to write coupons to a transit record, or to read them from it. Assumed: half of the cost of issuing
/// them.
pub(super) fn transfer(coupons: usize) -> f64 {
    OBSERVE + 2.5 * float(coupons)
}

/// Interpolates the duration of a call linearly; beyond the measured range it continues the last segment.
fn interpolate(measured: &[(f64, f64)], users: f64) -> f64 {
    let duration = |(users, rate): (f64, f64)| users / rate * 1e6;
    let mut parts = measured.windows(2).map(|part| (part[0], part[1]));
    let last = measured.len() - 2;
    let (from, to) = parts.find(|(_, to)| users <= to.0).unwrap_or((measured[last], measured[last + 1]));
    duration(from) + (users - from.0) * (duration(to) - duration(from)) / (to.0 - from.0)
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub(super) fn float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_at_measured_size_has_measured_cost() {
        for (users, rate) in [(1, 20e3), (8, 63e3), (32, 152e3), (128, 184e3)] {
            let rate_found = float(users) / (call(users, 0) - CONFIRM) * 1e6;
            assert!((rate_found / rate - 1.0).abs() < 1e-9, "{users}: {rate_found}");
        }
        assert!((32.0 / call(0, 32) * 1e6 / 557e3 - 1.0).abs() < 1e-9);
        assert!(call(10, 5) > call(10, 0) && call(300, 0) > call(128, 0));
    }
}
