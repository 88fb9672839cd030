//! The rules that a schema's limits cannot say, in CEL. The API server refuses a manifest that breaks one, with the rule's
//! message; `tests/manifests` has a manifest for each.
//!
//! Rules with `oldSelf` are asked on updates only. What is frozen once an event opened is decided by the old status, so
//! that nobody can unfreeze it in the same request; the status is written by the operator alone.

use kube::core::Rule;

/// One rule: what must hold, and what its author is told otherwise.
#[derive(Clone, Copy, Debug)]
pub struct EventRule {
    /// What must hold, in CEL.
    pub rule: &'static str,
    /// What to change.
    pub message: &'static str,
}

impl From<EventRule> for Rule {
    fn from(EventRule { rule, message }: EventRule) -> Self {
        Self::new(rule).message(message)
    }
}

macro_rules! once_opened {
    ($rule:literal) => {
        concat!("!has(oldSelf.status) || !has(oldSelf.status.openedAt) || (", $rule, ")")
    };
}

// Of the whole object

/// The name is an eventId, a metric label and a label value.
pub const NAME_FITS: EventRule = EventRule {
    rule: "size(self.metadata.name) <= 63",
    message: "metadata.name is the eventId that clients send: use at most 63 characters",
};

/// Coupons that may be in somebody's hands cannot be taken back.
pub const TOTAL_NEVER_SHRINKS: EventRule = EventRule {
    rule: once_opened!("self.spec.totalCount >= oldSelf.spec.totalCount"),
    message: "totalCount cannot go down once the event has opened: keep it or raise it (or set issuance to Paused or \
              Closed to stop giving out coupons)",
};

/// The stock was made of these discounts.
pub const DISCOUNTS_STAY: EventRule = EventRule {
    rule: once_opened!(
        "self.spec.discounts.size() == oldSelf.spec.discounts.size() && self.spec.discounts.all(d, \
         oldSelf.spec.discounts.exists(o, o.type == d.type && o.value == d.value && \
         has(o.allocationPercentage) == has(d.allocationPercentage) && \
         (!has(d.allocationPercentage) || d.allocationPercentage == o.allocationPercentage)))"
    ),
    message: "the discounts and their allocationPercentage cannot change once the event has opened: put them back as they \
              were, and make another event for other discounts",
};

/// The same as [`TOTAL_NEVER_SHRINKS`] for each discount.
pub const COUNTS_NEVER_SHRINK: EventRule = EventRule {
    rule: once_opened!(
        "self.spec.discounts.all(d, !has(d.count) || oldSelf.spec.discounts.all(o, \
         o.type != d.type || o.value != d.value || !has(o.count) || d.count >= o.count))"
    ),
    message: "the count of a discount cannot go down once the event has opened: keep each count or raise it",
};

/// Users have been told that it began.
pub const START_STAYS: EventRule = EventRule {
    rule: once_opened!(
        "has(self.spec.startTime) == has(oldSelf.spec.startTime) && \
         (!has(self.spec.startTime) || self.spec.startTime == oldSelf.spec.startTime)"
    ),
    message: "startTime cannot change once the event has opened: put it back (issuance Paused holds the event, endTime ends it)",
};

// Of the spec

/// A largest-remainder split needs a whole.
pub const PERCENTAGES_SUM_TO_100: EventRule = EventRule {
    rule: "!self.discounts.all(d, has(d.allocationPercentage)) || \
           self.discounts.map(d, d.allocationPercentage).sum() == 100",
    message: "the allocationPercentage of all discounts must sum to 100",
};

/// Both say how many coupons there are.
pub const COUNTS_SUM_TO_TOTAL: EventRule = EventRule {
    rule: "!self.discounts.all(d, has(d.count)) || self.discounts.map(d, d.count).sum() == self.totalCount",
    message: "the count of all discounts must sum to totalCount",
};

/// A percentage of what the counts leave would be a third way to read a manifest.
pub const ONE_KIND_OF_SHARE: EventRule = EventRule {
    rule: "self.discounts.all(d, has(d.allocationPercentage)) || self.discounts.all(d, has(d.count))",
    message: "use allocationPercentage for all discounts, or count for all discounts",
};

/// Two equal discounts are most likely a slip; their users could not be told apart.
pub const DISCOUNTS_DIFFER: EventRule = EventRule {
    rule: "self.discounts.all(d, self.discounts.exists_one(e, e.type == d.type && e.value == d.value))",
    message: "two discounts have the same type and value: merge them into one, or change one",
};

/// No instant is inside of such a window.
pub const START_BEFORE_END: EventRule = EventRule {
    rule: "!has(self.startTime) || !has(self.endTime) || self.startTime < self.endTime",
    message: "endTime must be after startTime",
};

/// What comes out on terminals and in tables is text, and Postgres takes no NUL.
pub const POLICY_NAME_IS_TEXT: EventRule = EventRule {
    rule: r"self.matches('[^\\s\\p{Z}]') && !self.matches('[\\p{Cc}\\p{Zl}\\p{Zp}\\x{200E}\\x{200F}\\x{202A}-\\x{202E}\\x{2066}-\\x{2069}]')",
    message: "policyName is one line of visible text: without line ends, control characters and marks that turn its direction",
};

/// RFC 3339 with at most nanoseconds, and an offset that exists. The format alone lets more through.
pub const TIME_PATTERN: &str =
    r"^\d{4}-\d{2}-\d{2}[Tt]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$";

/// What every program can read. The format alone lets through what is no time of the calendar.
pub const TIME_IS_READABLE: EventRule = EventRule {
    rule: "self.getFullYear() >= 1 && self.getFullYear() <= 9998",
    message: "the year is from 1 to 9998: leave endTime out where there is no end",
};

/// All codes of an event look alike, and its first may be printed already.
pub const CODE_STAYS: EventRule = EventRule {
    rule: "has(self.code) == has(oldSelf.code) && (!has(self.code) || self.code == oldSelf.code)",
    message: "code cannot change after the event was made: put it back, or delete the event and make it again",
};

/// Users have been told that it is over.
pub const CLOSED_IS_FINAL: EventRule = EventRule {
    rule: "oldSelf.issuance != 'Closed' || self.issuance == 'Closed'",
    message: "an event with issuance Closed stays closed: make another event (issuance Paused is what can be taken back)",
};

// Of one discount

/// More than the price cannot be taken off.
pub const PERCENT_IS_AT_MOST_100: EventRule = EventRule {
    rule: "self.type != 'Percent' || self.value <= 100",
    message: "a Percent discount has a value from 1 to 100",
};

/// One way to say how many.
pub const ONE_SHARE: EventRule = EventRule {
    rule: "has(self.allocationPercentage) != has(self.count)",
    message: "a discount takes either allocationPercentage or count: set one of them",
};

// Of the code

/// What is printed must be typed again.
pub const PREFIX_IS_READABLE: EventRule = EventRule {
    rule: "self.matches('^[A-Z0-9]+$')",
    message: "code.prefix has only the letters A-Z and digits 0-9, without spaces",
};
