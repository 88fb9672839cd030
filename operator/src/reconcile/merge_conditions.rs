//! Merges new conditions into those of the previous status.

use couponry_crds::status::condition;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// A condition without the fields that depend on the previous status.
#[derive(Clone, Debug)]
pub(super) struct NewCondition {
    type_: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl NewCondition {
    pub(super) fn new(type_: &'static str, is_true: bool, reason: &'static str, message: impl Into<String>) -> Self {
        Self::with_status(type_, if is_true { "True" } else { "False" }, reason, message)
    }

    /// `status`: True, False or Unknown.
    pub(super) fn with_status(
        type_: &'static str,
        status: &'static str,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { type_, status, reason, message: message.into() }
    }
}

/// Merges `new` into `old`. An old condition without a new value is kept only if `keep` returns true for its type.
pub(super) fn merge(
    old: &[Condition],
    new: impl IntoIterator<Item = NewCondition>,
    keep: impl Fn(&str) -> bool,
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let transition_time = |type_: &str, status: &str| {
        let unchanged = old.iter().find(|old| old.type_ == type_ && old.status == status);
        unchanged.map_or_else(|| truncate_to_seconds(now), |old| old.last_transition_time.clone())
    };
    let new = new.into_iter().map(|NewCondition { type_, status, reason, message }| Condition {
        last_transition_time: transition_time(type_, status),
        message,
        observed_generation: Some(generation),
        reason: reason.to_owned(),
        status: status.to_owned(),
        type_: type_.to_owned(),
    });
    let mut all: Vec<_> = new.collect();
    let is_new = |old: &&Condition| all.iter().any(|new| new.type_ == old.type_);
    let kept: Vec<_> = old.iter().filter(|old| keep(&old.type_) && !is_new(old)).cloned().collect();
    all.extend(kept);
    all.sort_by_key(|one| condition::ALL.iter().position(|type_| *type_ == one.type_));
    all
}

/// Kubernetes stores whole seconds, so a finer time would differ at every comparison.
pub(super) fn truncate_to_seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

#[cfg(test)]
mod tests {
    use couponry_crds::status::reason;

    use super::*;

    #[test]
    fn condition_keeps_its_position_and_its_transition_time() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let open = |is_true| NewCondition::new(condition::OPEN, is_true, reason::OPEN, "");
        let durable = |status| NewCondition::with_status(condition::DURABLE, status, reason::WRITES_SYNCED, "");
        let first = merge(&[], [durable("Unknown"), open(true)], |_| false, 1, at(1));
        assert_eq!(first.iter().map(|one| one.type_.as_str()).collect::<Vec<_>>(), ["Open", "Durable"]);
        let second = merge(&first, [durable("True")], |_| true, 2, at(2));
        let times: Vec<_> = second.iter().map(|one| one.last_transition_time.0.as_second()).collect();
        assert_eq!((times, second[0].status.as_str()), (vec![1, 2], "True"));
        assert_eq!(merge(&second, [durable("True")], |_| false, 3, at(3)).len(), 1);
    }
}
