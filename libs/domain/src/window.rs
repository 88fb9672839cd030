//! When an event gives out coupons. Redis decides it, inside the atomic step, by these same rules (`adapters/redis/src/lua/issue.lua`).

/// What the operator lets through. Redis keeps it in `couponMeta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// The stock is not whole yet.
    Loading,
    /// Coupons are given out inside the window.
    Open,
    /// Held by the manifest (`issuance: Paused`).
    Paused,
    /// Ended by the manifest (`issuance: Closed`), or being deleted. Final.
    Closed,
}

impl Gate {
    /// The name in Redis.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "LOADING",
            Self::Open => "OPEN",
            Self::Paused => "PAUSED",
            Self::Closed => "CLOSED",
        }
    }

    /// The gate with this name in Redis.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Loading, Self::Open, Self::Paused, Self::Closed].into_iter().find(|gate| gate.as_str() == name)
    }
}

/// The time in which coupons are given out, in milliseconds since the Unix epoch: from `start` (inclusive) to `end` (exclusive).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// None: as soon as the gate is open.
    pub start: Option<i64>,
    /// None: until the stock is used up.
    pub end: Option<i64>,
}

/// What a user without a coupon is told before the stock is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ask the stock.
    Open,
    /// Before the window, or still loading.
    NotStarted,
    /// After the window, or closed.
    Ended,
    /// Held by the manifest.
    Paused,
}

impl Window {
    /// What holds at `now` (milliseconds since the Unix epoch). The end outranks everything, then the start, then a pause.
    #[must_use]
    pub fn verdict(&self, gate: Gate, now: i64) -> Verdict {
        let ended = self.end.is_some_and(|end| now >= end);
        let started = self.start.is_none_or(|start| now >= start);
        match gate {
            Gate::Closed => Verdict::Ended,
            _ if ended => Verdict::Ended,
            Gate::Loading => Verdict::NotStarted,
            _ if !started => Verdict::NotStarted,
            Gate::Paused => Verdict::Paused,
            Gate::Open => Verdict::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_inside_and_the_end_is_outside() {
        let window = Window { start: Some(100), end: Some(200) };
        let at = |now| window.verdict(Gate::Open, now);
        assert_eq!(
            [at(99), at(100), at(199), at(200)],
            [Verdict::NotStarted, Verdict::Open, Verdict::Open, Verdict::Ended]
        );
    }

    #[test]
    fn the_gate_holds_inside_the_window() {
        let window = Window::default();
        assert_eq!(window.verdict(Gate::Loading, 0), Verdict::NotStarted);
        assert_eq!(window.verdict(Gate::Paused, 0), Verdict::Paused);
        assert_eq!(window.verdict(Gate::Closed, 0), Verdict::Ended);
        assert_eq!(window.verdict(Gate::Open, 0), Verdict::Open);
        assert_eq!(Window { start: Some(1), end: None }.verdict(Gate::Paused, 0), Verdict::NotStarted);
        assert_eq!(Window { start: None, end: Some(0) }.verdict(Gate::Paused, 0), Verdict::Ended);
    }

    #[test]
    fn gates_are_found_by_their_names() {
        for gate in [Gate::Loading, Gate::Open, Gate::Paused, Gate::Closed] {
            assert_eq!(Gate::from_name(gate.as_str()), Some(gate));
        }
        assert_eq!(Gate::from_name("open"), None);
    }
}
