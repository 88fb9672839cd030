//! What a call costs a core of Redis: measured on a noisy machine with two cores, AOF with `everysec`. Read them as ratios.

/// A call that gives coupons: users in it, and users per second with such calls back to back.
const GIVING: [(f64, f64); 4] = [(1.0, 20e3), (8.0, 63e3), (32.0, 152e3), (128.0, 184e3)];
/// A call that finds the stock used up.
const REFUSING: [(f64, f64); 2] = [(1.0, 55e3), (32.0, 557e3)];
/// The deletion of an outbox entry (µs). Assumed.
pub(super) const CONFIRM: f64 = 5.0;
/// A look at a shard by the mover (µs). Assumed: like a call that refuses one user.
pub(super) const LOOK: f64 = 18.0;

/// What a call takes (µs) that gives `given` coupons and refuses `refused` users.
pub(super) fn call(given: usize, refused: usize) -> f64 {
    match (given, refused) {
        (0, refused) => interpolate(&REFUSING, real(refused)),
        (given, 0) => interpolate(&GIVING, real(given)) + CONFIRM,
        // The call is there already: only what another user adds.
        (given, refused) => call(given, 0) + interpolate(&REFUSING, real(refused + 1)) - interpolate(&REFUSING, 1.0),
    }
}

/// What it takes (µs) to put coupons into a transit record, or out of it. Assumed: half of what giving them one by one costs.
pub(super) fn transfer(coupons: usize) -> f64 {
    LOOK + 2.5 * real(coupons)
}

/// Linear in the duration of a call between what was measured, and beyond it like its last part.
fn interpolate(measured: &[(f64, f64)], users: f64) -> f64 {
    let duration = |(users, rate): (f64, f64)| users / rate * 1e6;
    let mut parts = measured.windows(2).map(|part| (part[0], part[1]));
    let last = measured.len() - 2;
    let (from, to) = parts.find(|(_, to)| users <= to.0).unwrap_or((measured[last], measured[last + 1]));
    duration(from) + (users - from.0) * (duration(to) - duration(from)) / (to.0 - from.0)
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub(super) fn real(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_comes_out() {
        for (users, rate) in [(1, 20e3), (8, 63e3), (32, 152e3), (128, 184e3)] {
            let found = real(users) / (call(users, 0) - CONFIRM) * 1e6;
            assert!((found / rate - 1.0).abs() < 1e-9, "{users}: {found}");
        }
        assert!((32.0 / call(0, 32) * 1e6 / 557e3 - 1.0).abs() < 1e-9);
        assert!(call(10, 5) > call(10, 0) && call(300, 0) > call(128, 0));
    }
}
