//! The time window and the gate of an event. Redis applies the same rules inside the atomic step
//! (`adapters/redis/src/lua/issue.lua`).

/// The gate of an event, which the operator sets. It is stored in `couponMeta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// The stock is not fully loaded.
    Loading,
    /// Coupons are issued inside the window.
    Open,
    /// Paused by the manifest (`issuance: Paused`).
    Paused,
    /// Closed by the manifest (`issuance: Closed`), or because the event is deleted. Final.
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

/// The period during which coupons are issued, in milliseconds since the Unix epoch: from `start` (inclusive) to `end`
/// (exclusive).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// None: as soon as the gate is open.
    pub start: Option<i64>,
    /// None: until the stock is sold out.
    pub end: Option<i64>,
}

/// The state of a window with its gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowState {
    /// Coupons are issued while the stock lasts.
    Open,
    /// The window has not begun, or the stock is loading.
    NotStarted,
    /// The window is over, or the gate is closed.
    Ended,
    /// The gate is paused.
    Paused,
}

impl Window {
    /// The state at `now` (milliseconds since the Unix epoch). The end takes precedence over the start, and the start
    /// over a pause.
    #[must_use]
    pub fn state(&self, gate: Gate, now: i64) -> WindowState {
        let ended = self.end.is_some_and(|end| now >= end);
        let started = self.start.is_none_or(|start| now >= start);
        match gate {
            Gate::Closed => WindowState::Ended,
            _ if ended => WindowState::Ended,
            Gate::Loading => WindowState::NotStarted,
            _ if !started => WindowState::NotStarted,
            Gate::Paused => WindowState::Paused,
            Gate::Open => WindowState::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_includes_start_and_excludes_end() {
        let window = Window { start: Some(100), end: Some(200) };
        let at = |now| window.state(Gate::Open, now);
        assert_eq!(
            [at(99), at(100), at(199), at(200)],
            [WindowState::NotStarted, WindowState::Open, WindowState::Open, WindowState::Ended]
        );
    }

    #[test]
    fn gate_applies_inside_window() {
        let window = Window::default();
        assert_eq!(window.state(Gate::Loading, 0), WindowState::NotStarted);
        assert_eq!(window.state(Gate::Paused, 0), WindowState::Paused);
        assert_eq!(window.state(Gate::Closed, 0), WindowState::Ended);
        assert_eq!(window.state(Gate::Open, 0), WindowState::Open);
        assert_eq!(Window { start: Some(1), end: None }.state(Gate::Paused, 0), WindowState::NotStarted);
        assert_eq!(Window { start: None, end: Some(0) }.state(Gate::Paused, 0), WindowState::Ended);
    }

    #[test]
    fn gate_is_parsed_from_its_name() {
        for gate in [Gate::Loading, Gate::Open, Gate::Paused, Gate::Closed] {
            assert_eq!(Gate::from_name(gate.as_str()), Some(gate));
        }
        assert_eq!(Gate::from_name("open"), None);
    }
}
