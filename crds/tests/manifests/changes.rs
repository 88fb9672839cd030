//! Changes of events, forbidden and allowed.

/// A change of an event. Without a message, it is a change that must go through.
pub(crate) struct Change {
    pub(crate) what: &'static str,
    pub(crate) opened: bool,
    pub(crate) before: &'static str,
    pub(crate) after: &'static str,
    pub(crate) refused: Option<&'static str>,
}

const TOTAL_SHRINKS: &str = "totalCount cannot go down once the event has opened";
const DISCOUNTS_CHANGE: &str = "the discounts and their allocationPercentage cannot change once the event has opened";
const START_CHANGES: &str = "startTime cannot change once the event has opened";
const CODE_CHANGES: &str = "code cannot change after the event was made";

/// One discount by percentage, and what else the case needs.
macro_rules! by_percentage {
    ($total:literal $(, $rest:literal)?) => {
        concat!("{policyName: p, totalCount: ", $total, ", discounts: [{type: Percent, value: 10, allocationPercentage: 100}]",
            $(", ", $rest,)? "}")
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
        what: "a smaller total",
        opened: true,
        before: by_percentage!(100),
        after: by_percentage!(99),
        refused: Some(TOTAL_SHRINKS),
    },
    Change {
        what: "a smaller total before opening",
        opened: false,
        before: by_percentage!(100),
        after: by_percentage!(99),
        refused: None,
    },
    Change { what: "a top-up", opened: true, before: by_percentage!(100), after: by_percentage!(101), refused: None },
    Change {
        what: "another value",
        opened: true,
        before: two_percentages!(10, 70, 30),
        after: two_percentages!(11, 70, 30),
        refused: Some(DISCOUNTS_CHANGE),
    },
    Change {
        what: "another split",
        opened: true,
        before: two_percentages!(10, 70, 30),
        after: two_percentages!(10, 69, 31),
        refused: Some(DISCOUNTS_CHANGE),
    },
    Change {
        what: "another split before opening",
        opened: false,
        before: two_percentages!(10, 70, 30),
        after: two_percentages!(20, 69, 31),
        refused: None,
    },
    Change {
        what: "a discount less",
        opened: true,
        before: two_percentages!(10, 70, 30),
        after: by_percentage!(100),
        refused: Some(DISCOUNTS_CHANGE),
    },
    Change {
        what: "a discount more",
        opened: true,
        before: by_percentage!(100),
        after: two_percentages!(10, 70, 30),
        refused: Some(DISCOUNTS_CHANGE),
    },
    Change {
        what: "counts instead of percentages",
        opened: true,
        before: two_percentages!(10, 70, 30),
        after: two_counts!(100, 70, 30),
        refused: Some(DISCOUNTS_CHANGE),
    },
    Change {
        what: "a smaller count in a larger total",
        opened: true,
        before: two_counts!(100, 70, 30),
        after: two_counts!(200, 171, 29),
        refused: Some("the count of a discount cannot go down once the event has opened"),
    },
    Change {
        what: "a smaller count before opening",
        opened: false,
        before: two_counts!(100, 70, 30),
        after: two_counts!(200, 171, 29),
        refused: None,
    },
    Change {
        what: "a top-up by counts",
        opened: true,
        before: two_counts!(100, 70, 30),
        after: two_counts!(150, 120, 30),
        refused: None,
    },
    Change {
        what: "another start",
        opened: true,
        before: by_percentage!(1, "startTime: '2026-12-01T00:00:00Z'"),
        after: by_percentage!(1, "startTime: '2026-12-01T00:00:01Z'"),
        refused: Some(START_CHANGES),
    },
    Change {
        what: "no start any more",
        opened: true,
        before: by_percentage!(1, "startTime: '2026-12-01T00:00:00Z'"),
        after: by_percentage!(1),
        refused: Some(START_CHANGES),
    },
    Change {
        what: "a start where none was",
        opened: true,
        before: by_percentage!(1),
        after: by_percentage!(1, "startTime: '2026-12-01T00:00:00Z'"),
        refused: Some(START_CHANGES),
    },
    Change {
        what: "the same start in another time zone",
        opened: true,
        before: by_percentage!(1, "startTime: '2026-12-01T00:00:00Z'"),
        after: by_percentage!(1, "startTime: '2026-12-01T09:00:00+09:00'"),
        refused: None,
    },
    Change {
        what: "another start before opening",
        opened: false,
        before: by_percentage!(1, "startTime: '2026-12-01T00:00:00Z'"),
        after: by_percentage!(1, "startTime: '2026-11-01T00:00:00Z'"),
        refused: None,
    },
    Change {
        what: "another end",
        opened: true,
        before: by_percentage!(1),
        after: by_percentage!(1, "endTime: '2026-12-01T00:00:00Z'"),
        refused: None,
    },
    Change {
        what: "another prefix",
        opened: false,
        before: by_percentage!(1, "code: {prefix: A}"),
        after: by_percentage!(1, "code: {prefix: B}"),
        refused: Some(CODE_CHANGES),
    },
    Change {
        what: "another length",
        opened: false,
        before: by_percentage!(1, "code: {prefix: A}"),
        after: by_percentage!(1, "code: {prefix: A, length: 11}"),
        refused: Some(CODE_CHANGES),
    },
    Change {
        what: "a code where none was",
        opened: false,
        before: by_percentage!(1),
        after: by_percentage!(1, "code: {prefix: A}"),
        refused: Some(CODE_CHANGES),
    },
    Change {
        what: "no code any more",
        opened: false,
        before: by_percentage!(1, "code: {prefix: A}"),
        after: by_percentage!(1),
        refused: Some(CODE_CHANGES),
    },
    Change {
        what: "opened again after Closed",
        opened: false,
        before: by_percentage!(1, "issuance: Closed"),
        after: by_percentage!(1, "issuance: Auto"),
        refused: Some("an event with issuance Closed stays closed"),
    },
    Change {
        what: "resumed",
        opened: true,
        before: by_percentage!(1, "issuance: Paused"),
        after: by_percentage!(1, "issuance: Auto"),
        refused: None,
    },
];
