//! Changes of events that the API server accepts or rejects.

/// A change of an event, accepted unless it has a message.
pub(crate) struct Change {
    pub(crate) description: &'static str,
    pub(crate) opened: bool,
    pub(crate) before: &'static str,
    pub(crate) after: &'static str,
    pub(crate) message: Option<&'static str>,
}

const TOTAL_LOWERED: &str = "totalCount cannot be lowered once the event has opened";
const DISCOUNTS_CHANGE: &str = "the discounts and their allocationPercentage cannot change once the event has opened";
const CONDITIONS_CHANGE: &str = "maxDiscount and minimumOrderAmount cannot change once the event has opened";
const CURRENCY_CHANGES: &str = "currency cannot change once the event has opened";
const VALIDITY_CHANGES: &str = "validity cannot change once the event has opened";
const ADMISSION_CHANGES: &str = "admission cannot change once the event has opened";
const DROPS_CHANGE: &str = "drops cannot change once the event has opened";
const START_CHANGES: &str = "startTime cannot change once the event has opened";
const CODE_CHANGES: &str = "code cannot change after the event was created";

/// One discount by percentage, and optional further fields.
macro_rules! by_percentage {
    ($total:literal $(, $rest:literal)?) => {
        concat!("{policyName: p, totalCount: ", $total, ", discounts: [{type: Percent, value: 10, allocationPercentage: 100}]",
            $(", ", $rest,)? "}")
    };
}

/// One discount, and optional further fields of it.
macro_rules! with_condition {
    ($($condition:literal)?) => {
        concat!("{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1", $(", ", $condition,)? "}]}")
    };
}

macro_rules! two_percentages {
    ($value:literal, $one:literal, $other:literal) => {
        concat!(
            "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: ",
            $value,
            ", allocationPercentage: ",
            $one,
            "}, {type: Amount, value: 10, allocationPercentage: ",
            $other,
            "}]}"
        )
    };
}

macro_rules! two_counts {
    ($total:literal, $one:literal, $other:literal) => {
        concat!(
            "{policyName: p, totalCount: ",
            $total,
            ", discounts: [{type: Percent, value: 10, count: ",
            $one,
            "}, {type: Amount, value: 10, count: ",
            $other,
            "}]}"
        )
    };
}

pub(crate) const CHANGES: &[Change] = &[
    Change {
        description: "lower total",
        opened: true,
        before: by_percentage!(100),
        after: by_percentage!(99),
        message: Some(TOTAL_LOWERED),
    },
    Change {
        description: "lower total before opening",
        opened: false,
        before: by_percentage!(100),
        after: by_percentage!(99),
        message: None,
    },
    Change {
        description: "top-up",
        opened: true,
        before: by_percentage!(100),
        after: by_percentage!(101),
        message: None,
    },
    Change {
        description: "different value",
        opened: true,
        before: two_percentages!(10, 70, 30),
        after: two_percentages!(11, 70, 30),
        message: Some(DISCOUNTS_CHANGE),
    },
    Change {
        description: "different percentages",
        opened: true,
        before: two_percentages!(10, 70, 30),
        after: two_percentages!(10, 69, 31),
        message: Some(DISCOUNTS_CHANGE),
    },
    Change {
        description: "different percentages before opening",
        opened: false,
        before: two_percentages!(10, 70, 30),
        after: two_percentages!(20, 69, 31),
        message: None,
    },
    Change {
        description: "removed discount",
        opened: true,
        before: two_percentages!(10, 70, 30),
        after: by_percentage!(100),
        message: Some(DISCOUNTS_CHANGE),
    },
    Change {
        description: "added discount",
        opened: true,
        before: by_percentage!(100),
        after: two_percentages!(10, 70, 30),
        message: Some(DISCOUNTS_CHANGE),
    },
    Change {
        description: "counts instead of percentages",
        opened: true,
        before: two_percentages!(10, 70, 30),
        after: two_counts!(100, 70, 30),
        message: Some(DISCOUNTS_CHANGE),
    },
    Change {
        description: "lower count with higher total",
        opened: true,
        before: two_counts!(100, 70, 30),
        after: two_counts!(200, 171, 29),
        message: Some("the count of a discount cannot be lowered once the event has opened"),
    },
    Change {
        description: "lower count before opening",
        opened: false,
        before: two_counts!(100, 70, 30),
        after: two_counts!(200, 171, 29),
        message: None,
    },
    Change {
        description: "top-up by counts",
        opened: true,
        before: two_counts!(100, 70, 30),
        after: two_counts!(150, 120, 30),
        message: None,
    },
    Change {
        description: "different maxDiscount",
        opened: true,
        before: with_condition!("maxDiscount: 500"),
        after: with_condition!("maxDiscount: 501"),
        message: Some(CONDITIONS_CHANGE),
    },
    Change {
        description: "removed maxDiscount",
        opened: true,
        before: with_condition!("maxDiscount: 500"),
        after: with_condition!(),
        message: Some(CONDITIONS_CHANGE),
    },
    Change {
        description: "added minimumOrderAmount",
        opened: true,
        before: with_condition!("maxDiscount: 500"),
        after: with_condition!("maxDiscount: 500, minimumOrderAmount: 1000"),
        message: Some(CONDITIONS_CHANGE),
    },
    Change {
        description: "different minimumOrderAmount",
        opened: true,
        before: with_condition!("minimumOrderAmount: 1000"),
        after: with_condition!("minimumOrderAmount: 999"),
        message: Some(CONDITIONS_CHANGE),
    },
    Change {
        description: "different minimumOrderAmount before opening",
        opened: false,
        before: with_condition!("minimumOrderAmount: 1000"),
        after: with_condition!("minimumOrderAmount: 999"),
        message: None,
    },
    Change {
        description: "different currency",
        opened: true,
        before: by_percentage!(1, "currency: EUR"),
        after: by_percentage!(1, "currency: USD"),
        message: Some(CURRENCY_CHANGES),
    },
    Change {
        description: "added currency",
        opened: true,
        before: by_percentage!(1),
        after: by_percentage!(1, "currency: USD"),
        message: Some(CURRENCY_CHANGES),
    },
    Change {
        description: "different currency before opening",
        opened: false,
        before: by_percentage!(1, "currency: EUR"),
        after: by_percentage!(1, "currency: USD"),
        message: None,
    },
    Change {
        description: "top-up with currency and conditions",
        opened: true,
        before: "{policyName: p, totalCount: 1, currency: EUR, discounts: [{type: Percent, value: 10, \
                 allocationPercentage: 100, maxDiscount: 500, minimumOrderAmount: 1000}]}",
        after: "{policyName: p, totalCount: 2, currency: EUR, discounts: [{type: Percent, value: 10, \
                allocationPercentage: 100, maxDiscount: 500, minimumOrderAmount: 1000}]}",
        message: None,
    },
    Change {
        description: "different duration",
        opened: true,
        before: by_percentage!(1, "validity: {duration: P1D}"),
        after: by_percentage!(1, "validity: {duration: P2D}"),
        message: Some(VALIDITY_CHANGES),
    },
    Change {
        description: "added validity",
        opened: true,
        before: by_percentage!(1),
        after: by_percentage!(1, "validity: {duration: P2D}"),
        message: Some(VALIDITY_CHANGES),
    },
    Change {
        description: "removed validity",
        opened: true,
        before: by_percentage!(1, "validity: {duration: P2D}"),
        after: by_percentage!(1),
        message: Some(VALIDITY_CHANGES),
    },
    Change {
        description: "until instead of duration",
        opened: true,
        before: by_percentage!(1, "validity: {duration: P1D}"),
        after: by_percentage!(1, "validity: {until: '2027-01-01T00:00:00Z'}"),
        message: Some(VALIDITY_CHANGES),
    },
    Change {
        description: "different time zone",
        opened: true,
        before: by_percentage!(1, "validity: {duration: P1D}"),
        after: by_percentage!(1, "validity: {duration: P1D, timeZone: Asia/Seoul}"),
        message: Some(VALIDITY_CHANGES),
    },
    Change {
        description: "different end of the day",
        opened: true,
        before: by_percentage!(1, "validity: {duration: P1D}"),
        after: by_percentage!(1, "validity: {duration: P1D, endOfDay: true}"),
        message: Some(VALIDITY_CHANGES),
    },
    Change {
        description: "defaults of validity added",
        opened: true,
        before: by_percentage!(1, "validity: {duration: P1D}"),
        after: by_percentage!(1, "validity: {duration: P1D, timeZone: UTC, endOfDay: false}"),
        message: None,
    },
    Change {
        description: "same until in a different time zone",
        opened: true,
        before: by_percentage!(1, "validity: {until: '2027-01-01T00:00:00Z'}"),
        after: by_percentage!(1, "validity: {until: '2027-01-01T09:00:00+09:00'}"),
        message: None,
    },
    Change {
        description: "different duration before opening",
        opened: false,
        before: by_percentage!(1, "validity: {duration: P1D}"),
        after: by_percentage!(1, "validity: {duration: P1Y2M3W4DT5H6M, timeZone: America/New_York}"),
        message: None,
    },
    Change {
        description: "until on the day of the start",
        opened: false,
        before: by_percentage!(1),
        after: by_percentage!(
            1,
            "startTime: '2027-01-01T12:00:00Z', validity: {until: '2027-01-01T00:00:00Z', endOfDay: true}"
        ),
        message: None,
    },
    Change {
        description: "different ramp",
        opened: true,
        before: by_percentage!(10, "startTime: '2026-12-01T00:00:00Z', admission: {rampSeconds: 60}"),
        after: by_percentage!(10, "startTime: '2026-12-01T00:00:00Z', admission: {rampSeconds: 61}"),
        message: Some(ADMISSION_CHANGES),
    },
    Change {
        description: "added admission",
        opened: true,
        before: by_percentage!(10, "startTime: '2026-12-01T00:00:00Z'"),
        after: by_percentage!(10, "startTime: '2026-12-01T00:00:00Z', admission: {rampSeconds: 60}"),
        message: Some(ADMISSION_CHANGES),
    },
    Change {
        description: "removed admission",
        opened: true,
        before: by_percentage!(10, "startTime: '2026-12-01T00:00:00Z', admission: {rampSeconds: 60}"),
        after: by_percentage!(10, "startTime: '2026-12-01T00:00:00Z'"),
        message: Some(ADMISSION_CHANGES),
    },
    Change {
        description: "different ramp before opening",
        opened: false,
        before: by_percentage!(10, "startTime: '2026-12-01T00:00:00Z', admission: {rampSeconds: 60}"),
        after: by_percentage!(10, "startTime: '2026-12-01T00:00:00Z', admission: {rampSeconds: 61}"),
        message: None,
    },
    Change {
        description: "ramp that ends with the event",
        opened: false,
        before: by_percentage!(10, "startTime: '2026-12-01T00:00:00Z'"),
        after: by_percentage!(
            10,
            "startTime: '2026-12-01T00:00:00Z', admission: {rampSeconds: 60}, endTime: '2026-12-01T00:01:00Z'"
        ),
        message: None,
    },
    Change {
        description: "different count of a drop",
        opened: true,
        before: by_percentage!(10, "drops: [{at: '2027-01-01T00:00:00Z', count: 5}]"),
        after: by_percentage!(10, "drops: [{at: '2027-01-01T00:00:00Z', count: 6}]"),
        message: Some(DROPS_CHANGE),
    },
    Change {
        description: "different time of a drop",
        opened: true,
        before: by_percentage!(10, "drops: [{at: '2027-01-01T00:00:00Z', count: 5}]"),
        after: by_percentage!(10, "drops: [{at: '2027-01-01T00:00:01Z', count: 5}]"),
        message: Some(DROPS_CHANGE),
    },
    Change {
        description: "drops in milliseconds",
        opened: false,
        before: by_percentage!(10),
        after: by_percentage!(
            10,
            "drops: [{at: '2027-01-01T00:00:00.001+09:00', count: 1}, {at: '2027-01-01T00:00:00Z', count: 1}, \
             {at: '2027-01-01T00:00:00.010000Z', count: 1}]"
        ),
        message: None,
    },
    Change {
        description: "added drops",
        opened: true,
        before: by_percentage!(10),
        after: by_percentage!(10, "drops: [{at: '2027-01-01T00:00:00Z', count: 5}]"),
        message: Some(DROPS_CHANGE),
    },
    Change {
        description: "removed drops",
        opened: true,
        before: by_percentage!(10, "drops: [{at: '2027-01-01T00:00:00Z', count: 5}]"),
        after: by_percentage!(10),
        message: Some(DROPS_CHANGE),
    },
    Change {
        description: "different drops before opening",
        opened: false,
        before: by_percentage!(10, "drops: [{at: '2027-01-01T00:00:00Z', count: 5}]"),
        after: by_percentage!(
            10,
            "drops: [{at: '2027-01-01T00:00:01Z', count: 4}, {at: '2027-01-01T00:00:02Z', count: 6}]"
        ),
        message: None,
    },
    Change {
        description: "same drop in a different time zone",
        opened: true,
        before: by_percentage!(10, "drops: [{at: '2027-01-01T00:00:00Z', count: 5}]"),
        after: by_percentage!(10, "drops: [{at: '2027-01-01T09:00:00+09:00', count: 5}]"),
        message: None,
    },
    Change {
        description: "top-up with admission and drops",
        opened: true,
        before: by_percentage!(
            10,
            "startTime: '2026-12-01T00:00:00Z', admission: {rampSeconds: 60}, drops: [{at: '2027-01-01T00:00:00Z', count: 5}]"
        ),
        after: by_percentage!(
            20,
            "startTime: '2026-12-01T00:00:00Z', admission: {rampSeconds: 60}, drops: [{at: '2027-01-01T00:00:00Z', count: 5}]"
        ),
        message: None,
    },
    Change {
        description: "different startTime",
        opened: true,
        before: by_percentage!(1, "startTime: '2026-12-01T00:00:00Z'"),
        after: by_percentage!(1, "startTime: '2026-12-01T00:00:01Z'"),
        message: Some(START_CHANGES),
    },
    Change {
        description: "removed startTime",
        opened: true,
        before: by_percentage!(1, "startTime: '2026-12-01T00:00:00Z'"),
        after: by_percentage!(1),
        message: Some(START_CHANGES),
    },
    Change {
        description: "added startTime",
        opened: true,
        before: by_percentage!(1),
        after: by_percentage!(1, "startTime: '2026-12-01T00:00:00Z'"),
        message: Some(START_CHANGES),
    },
    Change {
        description: "same startTime in a different time zone",
        opened: true,
        before: by_percentage!(1, "startTime: '2026-12-01T00:00:00Z'"),
        after: by_percentage!(1, "startTime: '2026-12-01T09:00:00+09:00'"),
        message: None,
    },
    Change {
        description: "different startTime before opening",
        opened: false,
        before: by_percentage!(1, "startTime: '2026-12-01T00:00:00Z'"),
        after: by_percentage!(1, "startTime: '2026-11-01T00:00:00Z'"),
        message: None,
    },
    Change {
        description: "added endTime",
        opened: true,
        before: by_percentage!(1),
        after: by_percentage!(1, "endTime: '2026-12-01T00:00:00Z'"),
        message: None,
    },
    Change {
        description: "different prefix",
        opened: false,
        before: by_percentage!(1, "code: {prefix: A}"),
        after: by_percentage!(1, "code: {prefix: B}"),
        message: Some(CODE_CHANGES),
    },
    Change {
        description: "different length",
        opened: false,
        before: by_percentage!(1, "code: {prefix: A}"),
        after: by_percentage!(1, "code: {prefix: A, length: 11}"),
        message: Some(CODE_CHANGES),
    },
    Change {
        description: "added code",
        opened: false,
        before: by_percentage!(1),
        after: by_percentage!(1, "code: {prefix: A}"),
        message: Some(CODE_CHANGES),
    },
    Change {
        description: "removed code",
        opened: false,
        before: by_percentage!(1, "code: {prefix: A}"),
        after: by_percentage!(1),
        message: Some(CODE_CHANGES),
    },
    Change {
        description: "reopened after Closed",
        opened: false,
        before: by_percentage!(1, "issuance: Closed"),
        after: by_percentage!(1, "issuance: Auto"),
        message: Some("an event with issuance Closed cannot be reopened"),
    },
    Change {
        description: "resumed",
        opened: true,
        before: by_percentage!(1, "issuance: Paused"),
        after: by_percentage!(1, "issuance: Auto"),
        message: None,
    },
];
