//! CEL validation rules of the CRD, for constraints that an OpenAPI schema cannot express. The API server rejects a
//! manifest that violates a rule, with the rule's message. `tests/manifests` contains a violation of each rule.
//!
//! Rules with `oldSelf` are evaluated on updates only. Fields that become immutable once an event has opened depend
//! on the old status, which only the operator may write, so that a request cannot bypass them by changing the status.

use couponry_domain::currency_codes;
use kube::core::Rule;

/// A validation rule.
#[derive(Clone, Copy, Debug)]
pub struct EventRule {
    /// CEL expression that must be true.
    pub rule: &'static str,
    /// Error message, which describes the required change.
    pub message: &'static str,
}

impl From<EventRule> for Rule {
    fn from(EventRule { rule, message }: EventRule) -> Self {
        Self::new(rule).message(message)
    }
}

/// Applies a rule only after the event has opened. The manifest may have changed before the status showed this: then
/// the operator refuses the change (`ChangeNotPossible`), and the previous value has to be accepted.
macro_rules! once_opened {
    ($rule:literal) => {
        concat!(
            "!has(oldSelf.status) || !has(oldSelf.status.openedAt) || (has(oldSelf.status.conditions) && \
             oldSelf.status.conditions.exists(c, c.type == 'Stalled' && c.reason == 'ChangeNotPossible')) || (",
            $rule,
            ")"
        )
    };
}

// Rules of the object

/// The name is also used as a label value, which has at most 63 characters.
pub const NAME_LENGTH: EventRule = EventRule {
    rule: "size(self.metadata.name) <= 63",
    message: "metadata.name is the eventId that clients send: use at most 63 characters",
};

/// Coupons may have been issued and cannot be withdrawn.
pub const TOTAL_COUNT_NOT_LOWERED: EventRule = EventRule {
    rule: once_opened!("self.spec.totalCount >= oldSelf.spec.totalCount"),
    message: "totalCount cannot be lowered once the event has opened: keep it or raise it (to stop issuing, set \
              issuance to Paused or Closed)",
};

/// The coupons were generated with these discounts.
pub const DISCOUNTS_IMMUTABLE: EventRule = EventRule {
    rule: once_opened!(
        "self.spec.discounts.size() == oldSelf.spec.discounts.size() && self.spec.discounts.all(d, \
         oldSelf.spec.discounts.exists(o, o.type == d.type && o.value == d.value && \
         has(o.allocationPercentage) == has(d.allocationPercentage) && \
         (!has(d.allocationPercentage) || d.allocationPercentage == o.allocationPercentage)))"
    ),
    message: "the discounts and their allocationPercentage cannot change once the event has opened: restore the \
              previous values, or create another event for other discounts",
};

/// Users have received coupons under these conditions.
pub const CONDITIONS_IMMUTABLE: EventRule = EventRule {
    rule: once_opened!(
        "self.spec.discounts.all(d, oldSelf.spec.discounts.all(o, o.type != d.type || o.value != d.value || \
         (has(o.maxDiscount) == has(d.maxDiscount) && (!has(d.maxDiscount) || d.maxDiscount == o.maxDiscount) && \
         has(o.minimumOrderAmount) == has(d.minimumOrderAmount) && \
         (!has(d.minimumOrderAmount) || d.minimumOrderAmount == o.minimumOrderAmount))))"
    ),
    message: "maxDiscount and minimumOrderAmount cannot change once the event has opened: restore the previous values",
};

/// The amounts of coupons that users have received would change.
pub const CURRENCY_IMMUTABLE: EventRule = EventRule {
    rule: once_opened!(
        "has(self.spec.currency) == has(oldSelf.spec.currency) && \
         (!has(self.spec.currency) || self.spec.currency == oldSelf.spec.currency)"
    ),
    message: "currency cannot change once the event has opened: restore the previous value",
};

/// [`TOTAL_COUNT_NOT_LOWERED`] for each discount.
pub const COUNTS_NOT_LOWERED: EventRule = EventRule {
    rule: once_opened!(
        "self.spec.discounts.all(d, !has(d.count) || oldSelf.spec.discounts.all(o, \
         o.type != d.type || o.value != d.value || !has(o.count) || d.count >= o.count))"
    ),
    message: "the count of a discount cannot be lowered once the event has opened: keep it or raise it",
};

/// Users have already received coupons.
pub const START_TIME_IMMUTABLE: EventRule = EventRule {
    rule: once_opened!(
        "has(self.spec.startTime) == has(oldSelf.spec.startTime) && \
         (!has(self.spec.startTime) || self.spec.startTime == oldSelf.spec.startTime)"
    ),
    message: "startTime cannot change once the event has opened: restore the previous value (to stop issuing, set \
              issuance to Paused, or change endTime)",
};

/// Users have received coupons with this validity.
pub const VALIDITY_IMMUTABLE: EventRule = EventRule {
    rule: once_opened!(
        "has(self.spec.validity) == has(oldSelf.spec.validity) && \
         (!has(self.spec.validity) || self.spec.validity == oldSelf.spec.validity)"
    ),
    message: "validity cannot change once the event has opened: restore the previous value",
};

/// Users have received the times at which they are admitted.
pub const ADMISSION_IMMUTABLE: EventRule = EventRule {
    rule: once_opened!(
        "has(self.spec.admission) == has(oldSelf.spec.admission) && \
         (!has(self.spec.admission) || self.spec.admission == oldSelf.spec.admission)"
    ),
    message: "admission cannot change once the event has opened: restore the previous value",
};

/// Users have received the time at which the next coupons become available.
pub const DROPS_IMMUTABLE: EventRule = EventRule {
    rule: once_opened!(
        "has(self.spec.drops) == has(oldSelf.spec.drops) && \
         (!has(self.spec.drops) || self.spec.drops == oldSelf.spec.drops)"
    ),
    message: "drops cannot change once the event has opened: restore the previous values (to make more coupons available at \
              once, raise totalCount)",
};

// Rules of the spec

/// The split into discounts requires percentages that cover all coupons.
pub const PERCENTAGES_SUM_TO_100: EventRule = EventRule {
    rule: "!self.discounts.all(d, has(d.allocationPercentage)) || \
           self.discounts.map(d, d.allocationPercentage).sum() == 100",
    message: "the allocationPercentage of all discounts must sum to 100",
};

/// Counts and totalCount must agree on the number of coupons.
pub const COUNTS_SUM_TO_TOTAL: EventRule = EventRule {
    rule: "!self.discounts.all(d, has(d.count)) || self.discounts.map(d, d.count).sum() == self.totalCount",
    message: "the count of all discounts must sum to totalCount",
};

/// Mixing both kinds would be ambiguous.
pub const SAME_KIND_OF_SHARE: EventRule = EventRule {
    rule: "self.discounts.all(d, has(d.allocationPercentage)) || self.discounts.all(d, has(d.count))",
    message: "use allocationPercentage for all discounts, or count for all discounts",
};

/// Equal discounts are most likely a mistake, and coupons of them could not be distinguished.
pub const DISCOUNTS_UNIQUE: EventRule = EventRule {
    rule: "self.discounts.all(d, self.discounts.exists_one(e, e.type == d.type && e.value == d.value))",
    message: "two discounts have the same type and value: merge them, or change one of them",
};

/// Otherwise the event would never open.
pub const START_BEFORE_END: EventRule = EventRule {
    rule: "!has(self.startTime) || !has(self.endTime) || self.startTime < self.endTime",
    message: "endTime must be after startTime",
};

/// Otherwise the event would never open. With `endOfDay`, the day is at most 25 hours long.
pub const START_BEFORE_UNTIL: EventRule = EventRule {
    rule: "!has(self.startTime) || !has(self.validity) || !has(self.validity.until) || \
           self.startTime < self.validity.until + duration(self.validity.endOfDay ? '25h' : '0s')",
    message: "validity.until must be after startTime: move it, or use validity.duration",
};

/// Otherwise the times at which users are admitted would depend on how long loading takes.
pub const ADMISSION_REQUIRES_START: EventRule = EventRule {
    rule: "!has(self.admission) || has(self.startTime)",
    message: "admission requires startTime: set it, or remove admission",
};

/// Otherwise some users could never receive a coupon.
pub const ADMISSION_BEFORE_END: EventRule = EventRule {
    rule: "!has(self.admission) || !has(self.startTime) || \
           ((!has(self.endTime) || self.admission.rampSeconds <= (self.endTime - self.startTime).getSeconds()) && \
           (!has(self.validity) || !has(self.validity.until) || \
           self.admission.rampSeconds <= (self.validity.until - self.startTime).getSeconds()))",
    message: "all users must be admitted before the event ends: lower admission.rampSeconds, or move endTime and \
              validity.until (to end an event that has opened, set issuance to Closed)",
};

/// Otherwise the coupons could never be issued, or would not be held back.
pub const DROPS_WITHIN_WINDOW: EventRule = EventRule {
    rule: "!has(self.drops) || self.drops.all(d, (!has(self.startTime) || self.startTime < d.at) && \
           (!has(self.endTime) || d.at < self.endTime) && \
           (!has(self.validity) || !has(self.validity.until) || d.at < self.validity.until))",
    message: "drops must be after startTime, and before endTime and validity.until (to end an event that has opened, \
              set issuance to Closed)",
};

/// Otherwise a drop would have fewer coupons than it announces.
pub const DROPS_WITHIN_TOTAL: EventRule = EventRule {
    rule: "!has(self.drops) || self.drops.map(d, d.count).sum() <= self.totalCount",
    message: "the counts of all drops must not exceed totalCount: lower them, or raise totalCount",
};

/// Keeps terminals and tables safe from control characters; Postgres does not accept NUL.
pub const POLICY_NAME_ONE_VISIBLE_LINE: EventRule = EventRule {
    rule: r"self.matches('[^\\s\\p{Z}]') && !self.matches('[\\p{Cc}\\p{Zl}\\p{Zp}\\x{200E}\\x{200F}\\x{202A}-\\x{202E}\\x{2066}-\\x{2069}]')",
    message: "policyName must be one line of visible text: remove line breaks, control characters and bidirectional \
              formatting characters",
};

/// RFC 3339 with at most nanoseconds and a valid offset. The API server also requires the format `date-time`.
pub const TIME_PATTERN: &str =
    r"^\d{4}-\d{2}-\d{2}T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$";

/// The range of years that every program can parse.
pub const YEAR_IN_RANGE: EventRule = EventRule {
    rule: "self.getFullYear() >= 1 && self.getFullYear() <= 9998",
    message: "the year must be from 1 to 9998: omit endTime for an event without end",
};

/// [`TIME_PATTERN`] with at most milliseconds: Redis has no smaller unit, in which two drops would be at the same time.
pub const DROP_PATTERN: &str =
    r"^\d{4}-\d{2}-\d{2}T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,3}0{0,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$";

/// Redis has times since the Unix epoch.
pub const DROP_YEAR_IN_RANGE: EventRule = EventRule {
    rule: "self.getFullYear() >= 1970 && self.getFullYear() <= 9998",
    message: "the year of a drop must be from 1970 to 9998",
};

/// Other codes are most likely a mistake.
pub const CURRENCY_IN_USE: EventRule = EventRule {
    rule: concat!("'", currency_codes!(), "'.contains(' ' + self + ' ')"),
    message: "currency must be the code of a currency in use (ISO 4217) in capital letters, such as EUR or KRW",
};

/// All codes of an event have the same format, and some may be published already.
pub const CODE_IMMUTABLE: EventRule = EventRule {
    rule: "has(self.code) == has(oldSelf.code) && (!has(self.code) || self.code == oldSelf.code)",
    message: "code cannot change after the event was created: restore the previous value, or delete and recreate the \
              event",
};

/// Users may already have received the reason ENDED.
pub const CLOSED_IS_FINAL: EventRule = EventRule {
    rule: "oldSelf.issuance != 'Closed' || self.issuance == 'Closed'",
    message: "an event with issuance Closed cannot be reopened: create another event (use Paused to stop issuing \
              temporarily)",
};

// Rules of the drops

/// The order of two drops at the same time, or of unsorted ones, is most likely a mistake.
pub const DROPS_ASCENDING: EventRule = EventRule {
    rule: "self.map(d, d.at).isSorted() && self.all(d, self.exists_one(e, e.at == d.at))",
    message: "drops must be in the order of their times, without two at the same time: sort or merge them",
};

// Rules of the validity

/// The end of the validity must be unambiguous.
pub const EXACTLY_ONE_END: EventRule = EventRule {
    rule: "has(self.duration) != has(self.until)",
    message: "validity requires either duration or until: set exactly one of them",
};

/// A part of ISO 8601. Fractions, seconds and durations of 0 are most likely a mistake.
pub const DURATION_FORMAT: EventRule = EventRule {
    rule: r"self.matches('^P([0-9]{1,2}Y)?([0-9]{1,3}M)?([0-9]{1,3}W)?([0-9]{1,4}D)?(T([0-9]{1,4}H)?([0-9]{1,5}M)?)?$') && self.matches('[1-9]') && !self.endsWith('T')",
    message: "validity.duration must be an ISO 8601 duration of years, months, weeks, days, hours and minutes, such as \
              P30D, P1M or PT48H",
};

/// An unknown time zone is an error of the function, which the API server reports with this message.
pub const TIME_ZONE_KNOWN: EventRule = EventRule {
    rule: "self.matches('^[A-Za-z][A-Za-z0-9_+/-]*$') && self != 'Local' && \
           timestamp('1970-01-01T00:00:00Z').getFullYear(self) > 0",
    message: "validity.timeZone must be a name of the IANA time zone database, such as Europe/Berlin or Asia/Seoul",
};

// Rules of a discount

/// A discount cannot exceed the price.
pub const PERCENT_AT_MOST_100: EventRule = EventRule {
    rule: "self.type != 'Percent' || self.value <= 100",
    message: "the value of a Percent discount must be from 1 to 100",
};

/// The share of a discount must be unambiguous.
pub const EXACTLY_ONE_SHARE: EventRule = EventRule {
    rule: "has(self.allocationPercentage) != has(self.count)",
    message: "a discount requires either allocationPercentage or count: set exactly one of them",
};

/// The value of an Amount discount is its maximum already.
pub const MAX_DISCOUNT_OF_PERCENT: EventRule = EventRule {
    rule: "!has(self.maxDiscount) || self.type == 'Percent'",
    message: "maxDiscount is only for Percent discounts: remove it from the Amount discount",
};

// Rules of the code

/// Imported codes have the format that they have. The API server sets a length that is omitted to its default.
pub const FORMAT_OF_GENERATED: EventRule = EventRule {
    rule: "self.source != 'Imported' || (!has(self.prefix) && self.length == 12)",
    message: "code.prefix and code.length are for generated codes: remove them, or set code.source to Generated",
};

/// Printed codes must be easy to type.
pub const PREFIX_ALPHABET: EventRule = EventRule {
    rule: "self.matches('^[A-Z0-9]+$')",
    message: "code.prefix may contain only the letters A-Z and digits 0-9",
};
