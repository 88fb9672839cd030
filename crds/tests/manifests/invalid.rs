//! New manifests that the API server rejects.

/// A new manifest that violates a rule.
pub(crate) struct Invalid {
    pub(crate) description: &'static str,
    pub(crate) spec: &'static str,
    pub(crate) message: &'static str,
}

const UNKNOWN_CURRENCY: &str =
    "currency must be the code of a currency in use (ISO 4217) in capital letters, such as EUR or KRW";

const FORMAT_OF_IMPORTED: &str =
    "code.prefix and code.length are for generated codes: remove them, or set code.source to Generated";

const INVALID_DURATION: &str = "validity.duration must be an ISO 8601 duration of years, months, weeks, days, hours and \
                                minutes, such as P30D, P1M or PT48H";
const UNKNOWN_TIME_ZONE: &str =
    "validity.timeZone must be a name of the IANA time zone database, such as Europe/Berlin or Asia/Seoul";

const LATE_ADMISSION: &str = "all users must be admitted before the event ends: lower admission.rampSeconds, or move \
                              endTime and validity.until (to end an event that has opened, set issuance to Closed)";
const UNSORTED_DROPS: &str =
    "drops must be in the order of their times, without two at the same time: sort or merge them";
const DROP_DIGITS: &str = "spec.drops[0].at in body should match";
const DROP_OUTSIDE: &str = "drops must be after startTime, and before endTime and validity.until (to end an event that \
                            has opened, set issuance to Closed)";

pub(crate) const INVALID: &[Invalid] = &[
    Invalid {
        description: "percentages sum to 99",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 69}, \
               {type: Amount, value: 5000, allocationPercentage: 30}]}",
        message: "the allocationPercentage of all discounts must sum to 100",
    },
    Invalid {
        description: "percentages sum to 101",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 71}, \
               {type: Amount, value: 5000, allocationPercentage: 30}]}",
        message: "the allocationPercentage of all discounts must sum to 100",
    },
    Invalid {
        description: "counts do not sum to totalCount",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, count: 70}, \
               {type: Amount, value: 5000, count: 31}]}",
        message: "the count of all discounts must sum to totalCount",
    },
    Invalid {
        description: "mixed percentages and counts",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 70}, \
               {type: Amount, value: 5000, count: 30}]}",
        message: "use allocationPercentage for all discounts, or count for all discounts",
    },
    Invalid {
        description: "discount with percentage and count",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100, count: 100}]}",
        message: "a discount requires either allocationPercentage or count: set exactly one of them",
    },
    Invalid {
        description: "discount without a share",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10}]}",
        message: "a discount requires either allocationPercentage or count: set exactly one of them",
    },
    Invalid {
        description: "equal discounts",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 70}, \
               {type: Percent, value: 10, allocationPercentage: 30}]}",
        message: "two discounts have the same type and value: merge them, or change one of them",
    },
    Invalid {
        description: "Percent 0",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 0, allocationPercentage: 100}]}",
        message: "spec.discounts[0].value in body should be greater than or equal to 1",
    },
    Invalid {
        description: "Percent 101",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 101, allocationPercentage: 100}]}",
        message: "the value of a Percent discount must be from 1 to 100",
    },
    Invalid {
        description: "percentage of 0",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 1, allocationPercentage: 100}, \
               {type: Percent, value: 2, allocationPercentage: 0}]}",
        message: "spec.discounts[1].allocationPercentage in body should be greater than or equal to 1",
    },
    Invalid {
        description: "fractional percentage",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 1, allocationPercentage: 99.5}, \
               {type: Percent, value: 2, allocationPercentage: 0.5}]}",
        message: "spec.discounts[0].allocationPercentage",
    },
    Invalid {
        description: "maxDiscount of an Amount discount",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Amount, value: 10, count: 100, maxDiscount: 5}]}",
        message: "maxDiscount is only for Percent discounts: remove it from the Amount discount",
    },
    Invalid {
        description: "negative maxDiscount",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, count: 100, maxDiscount: -5}]}",
        message: "spec.discounts[0].maxDiscount in body should be greater than or equal to 1",
    },
    Invalid {
        description: "negative minimumOrderAmount",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, count: 100, \
               minimumOrderAmount: -1}]}",
        message: "spec.discounts[0].minimumOrderAmount in body should be greater than or equal to 1",
    },
    Invalid {
        description: "maxDiscount in major units",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, count: 100, maxDiscount: 4.99}]}",
        message: "spec.discounts[0].maxDiscount",
    },
    Invalid {
        description: "currency in lower case",
        spec: "{policyName: p, totalCount: 100, currency: eur, discounts: [{type: Amount, value: 10, count: 100}]}",
        message: UNKNOWN_CURRENCY,
    },
    Invalid {
        description: "withdrawn currency",
        spec: "{policyName: p, totalCount: 100, currency: DEM, discounts: [{type: Amount, value: 10, count: 100}]}",
        message: UNKNOWN_CURRENCY,
    },
    Invalid {
        description: "currency by its symbol",
        spec: "{policyName: p, totalCount: 100, currency: '$', discounts: [{type: Amount, value: 10, count: 100}]}",
        message: "spec.currency in body should be at least 3 chars long",
    },
    Invalid {
        description: "prefix of imported codes",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               code: {source: Imported, prefix: SUMMER}}",
        message: FORMAT_OF_IMPORTED,
    },
    Invalid {
        description: "length of imported codes",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               code: {source: Imported, length: 10}}",
        message: FORMAT_OF_IMPORTED,
    },
    Invalid {
        description: "unknown source of codes",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               code: {source: imported}}",
        message: "spec.code.source: Unsupported value: \"imported\"",
    },
    Invalid {
        description: "validity without end",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               validity: {}}",
        message: "validity requires either duration or until: set exactly one of them",
    },
    Invalid {
        description: "validity with duration and until",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               validity: {duration: P1D, until: '2027-01-01T00:00:00Z'}}",
        message: "validity requires either duration or until: set exactly one of them",
    },
    Invalid {
        description: "duration of Go",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               validity: {duration: 720h}}",
        message: INVALID_DURATION,
    },
    Invalid {
        description: "duration of zero",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               validity: {duration: P0D}}",
        message: INVALID_DURATION,
    },
    Invalid {
        description: "negative duration",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               validity: {duration: -P1D}}",
        message: INVALID_DURATION,
    },
    Invalid {
        description: "duration with seconds",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               validity: {duration: PT90S}}",
        message: INVALID_DURATION,
    },
    Invalid {
        description: "duration without time",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               validity: {duration: P1DT}}",
        message: INVALID_DURATION,
    },
    Invalid {
        description: "fraction of a day",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               validity: {duration: P0.5D}}",
        message: INVALID_DURATION,
    },
    Invalid {
        description: "unknown time zone",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               validity: {duration: P1D, timeZone: Europe/Atlantis}}",
        message: UNKNOWN_TIME_ZONE,
    },
    Invalid {
        description: "offset as time zone",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               validity: {duration: P1D, timeZone: '+09:00'}}",
        message: UNKNOWN_TIME_ZONE,
    },
    Invalid {
        description: "time zone of the machine",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               validity: {duration: P1D, timeZone: Local}}",
        message: UNKNOWN_TIME_ZONE,
    },
    Invalid {
        description: "until without time",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               validity: {until: '2027-01-01'}}",
        message: "spec.validity.until",
    },
    Invalid {
        description: "until in the year 9999",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               validity: {until: '9999-01-01T00:00:00Z'}}",
        message: "the year must be from 1 to 9998",
    },
    Invalid {
        description: "until before the start",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               startTime: '2027-01-02T00:00:00Z', validity: {until: '2027-01-01T23:59:59Z'}}",
        message: "validity.until must be after startTime: move it, or use validity.duration",
    },
    Invalid {
        description: "until on the day before the start",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               startTime: '2027-01-03T00:00:00Z', \
               validity: {until: '2027-01-01T00:00:00Z', endOfDay: true}}",
        message: "validity.until must be after startTime: move it, or use validity.duration",
    },
    Invalid {
        description: "admission without startTime",
        spec: "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, count: 10}], \
               admission: {rampSeconds: 60}}",
        message: "admission requires startTime: set it, or remove admission",
    },
    Invalid {
        description: "admission without ramp",
        spec: "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, count: 10}], \
               startTime: '2027-01-01T00:00:00Z', admission: {}}",
        message: "spec.admission.rampSeconds: Required value",
    },
    Invalid {
        description: "ramp of zero seconds",
        spec: "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, count: 10}], \
               startTime: '2027-01-01T00:00:00Z', admission: {rampSeconds: 0}}",
        message: "spec.admission.rampSeconds in body should be greater than or equal to 1",
    },
    Invalid {
        description: "ramp of more than a day",
        spec: "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, count: 10}], \
               startTime: '2027-01-01T00:00:00Z', admission: {rampSeconds: 86401}}",
        message: "spec.admission.rampSeconds in body should be less than or equal to 86400",
    },
    Invalid {
        description: "ramp longer than the event",
        spec: "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, count: 10}], \
               startTime: '2027-01-01T00:00:00Z', endTime: '2027-01-01T00:00:59Z', \
               admission: {rampSeconds: 60}}",
        message: LATE_ADMISSION,
    },
    Invalid {
        description: "ramp beyond validity.until",
        spec: "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, count: 10}], \
               startTime: '2027-01-01T00:00:00Z', validity: {until: '2027-01-01T00:00:59Z'}, \
               admission: {rampSeconds: 60}}",
        message: LATE_ADMISSION,
    },
    Invalid {
        description: "empty drops",
        spec: "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, count: 10}], \
               drops: []}",
        message: "spec.drops in body should have at least 1 items",
    },
    Invalid {
        description: "drop without count",
        spec: "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, count: 10}], \
               drops: [{at: '2027-01-01T00:00:00Z'}]}",
        message: "spec.drops[0].count: Required value",
    },
    Invalid {
        description: "drop without coupons",
        spec: "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, count: 10}], \
               drops: [{at: '2027-01-01T00:00:00Z', count: 0}]}",
        message: "spec.drops[0].count in body should be greater than or equal to 1",
    },
    Invalid {
        description: "drop without time",
        spec: "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, count: 10}], \
               drops: [{at: '2027-01-01', count: 1}]}",
        message: "spec.drops[0].at",
    },
    Invalid {
        description: "drop with microseconds",
        spec: "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, count: 10}], \
               drops: [{at: '2027-01-01T00:00:00.000001Z', count: 1}]}",
        message: DROP_DIGITS,
    },
    Invalid {
        description: "drops within a millisecond",
        spec: "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, count: 10}], \
               drops: [{at: '2027-01-01T00:00:00.0011+09:00', count: 1}, \
               {at: '2027-01-01T00:00:00.0012+09:00', count: 1}]}",
        message: DROP_DIGITS,
    },
    Invalid {
        description: "drop before 1970",
        spec: "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, count: 10}], \
               drops: [{at: '1969-12-31T23:59:59Z', count: 1}]}",
        message: "the year of a drop must be from 1970 to 9998",
    },
    Invalid {
        description: "unsorted drops",
        spec: "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, count: 10}], \
               drops: [{at: '2027-01-02T00:00:00Z', count: 1}, \
               {at: '2027-01-01T00:00:00Z', count: 1}]}",
        message: UNSORTED_DROPS,
    },
    Invalid {
        description: "drops at the same time",
        spec: "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, count: 10}], \
               drops: [{at: '2027-01-01T00:00:00Z', count: 1}, \
               {at: '2027-01-01T09:00:00+09:00', count: 1}]}",
        message: UNSORTED_DROPS,
    },
    Invalid {
        description: "drop at the start",
        spec: "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, count: 10}], \
               startTime: '2027-01-01T00:00:00Z', drops: [{at: '2027-01-01T00:00:00Z', count: 1}]}",
        message: DROP_OUTSIDE,
    },
    Invalid {
        description: "drop at the end",
        spec: "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, count: 10}], \
               endTime: '2027-01-01T00:00:00Z', drops: [{at: '2027-01-01T00:00:00Z', count: 1}]}",
        message: DROP_OUTSIDE,
    },
    Invalid {
        description: "drop after validity.until",
        spec: "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, count: 10}], \
               validity: {until: '2027-01-01T00:00:00Z'}, \
               drops: [{at: '2027-01-01T00:00:01Z', count: 1}]}",
        message: DROP_OUTSIDE,
    },
    Invalid {
        description: "drops of more coupons than there are",
        spec: "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, count: 10}], \
               drops: [{at: '2027-01-01T00:00:00Z', count: 6}, \
               {at: '2027-01-02T00:00:00Z', count: 5}]}",
        message: "the counts of all drops must not exceed totalCount: lower them, or raise totalCount",
    },
    Invalid {
        description: "more than 20 drops",
        spec: "{policyName: p, totalCount: 30, discounts: [{type: Percent, value: 10, count: 30}], \
               drops: [{at: '2027-01-01T00:00:00Z', count: 1}, {at: '2027-01-02T00:00:00Z', count: 1}, \
               {at: '2027-01-03T00:00:00Z', count: 1}, {at: '2027-01-04T00:00:00Z', count: 1}, \
               {at: '2027-01-05T00:00:00Z', count: 1}, {at: '2027-01-06T00:00:00Z', count: 1}, \
               {at: '2027-01-07T00:00:00Z', count: 1}, {at: '2027-01-08T00:00:00Z', count: 1}, \
               {at: '2027-01-09T00:00:00Z', count: 1}, {at: '2027-01-10T00:00:00Z', count: 1}, \
               {at: '2027-01-11T00:00:00Z', count: 1}, {at: '2027-01-12T00:00:00Z', count: 1}, \
               {at: '2027-01-13T00:00:00Z', count: 1}, {at: '2027-01-14T00:00:00Z', count: 1}, \
               {at: '2027-01-15T00:00:00Z', count: 1}, {at: '2027-01-16T00:00:00Z', count: 1}, \
               {at: '2027-01-17T00:00:00Z', count: 1}, {at: '2027-01-18T00:00:00Z', count: 1}, \
               {at: '2027-01-19T00:00:00Z', count: 1}, {at: '2027-01-20T00:00:00Z', count: 1}, \
               {at: '2027-01-21T00:00:00Z', count: 1}]}",
        message: "spec.drops: Too many: 21: must have at most 20 items",
    },
    Invalid {
        description: "unknown discount type",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: PERCENT, value: 10, allocationPercentage: 100}]}",
        message: "supported values: \"Percent\", \"Amount\"",
    },
    Invalid {
        description: "no discounts",
        spec: "{policyName: p, totalCount: 100, discounts: []}",
        message: "spec.discounts in body should have at least 1 items",
    },
    Invalid {
        description: "more than 20 discounts",
        spec: "{policyName: p, totalCount: 100, discounts: [\
               {type: Amount, value: 1, allocationPercentage: 80}, {type: Amount, value: 2, allocationPercentage: 1}, \
               {type: Amount, value: 3, allocationPercentage: 1}, {type: Amount, value: 4, allocationPercentage: 1}, \
               {type: Amount, value: 5, allocationPercentage: 1}, {type: Amount, value: 6, allocationPercentage: 1}, \
               {type: Amount, value: 7, allocationPercentage: 1}, {type: Amount, value: 8, allocationPercentage: 1}, \
               {type: Amount, value: 9, allocationPercentage: 1}, {type: Amount, value: 10, allocationPercentage: 1}, \
               {type: Amount, value: 11, allocationPercentage: 1}, {type: Amount, value: 12, allocationPercentage: 1}, \
               {type: Amount, value: 13, allocationPercentage: 1}, {type: Amount, value: 14, allocationPercentage: 1}, \
               {type: Amount, value: 15, allocationPercentage: 1}, {type: Amount, value: 16, allocationPercentage: 1}, \
               {type: Amount, value: 17, allocationPercentage: 1}, {type: Amount, value: 18, allocationPercentage: 1}, \
               {type: Amount, value: 19, allocationPercentage: 1}, {type: Amount, value: 20, allocationPercentage: 1}, \
               {type: Amount, value: 21, allocationPercentage: 1}]}",
        message: "spec.discounts: Too many: 21: must have at most 20 items",
    },
    Invalid {
        description: "totalCount 0",
        spec: "{policyName: p, totalCount: 0, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}",
        message: "spec.totalCount in body should be greater than or equal to 1",
    },
    Invalid {
        description: "totalCount -1",
        spec: "{policyName: p, totalCount: -1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}",
        message: "spec.totalCount in body should be greater than or equal to 1",
    },
    Invalid {
        description: "totalCount 10^12",
        spec: "{policyName: p, totalCount: 1000000000000, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}",
        message: "spec.totalCount in body should be less than or equal to 10000000",
    },
    Invalid {
        description: "missing totalCount",
        spec: "{policyName: p, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}",
        message: "spec.totalCount: Required value",
    },
    Invalid {
        description: "empty policyName",
        spec: "{policyName: '', totalCount: 1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}",
        message: "spec.policyName in body should be at least 1 chars long",
    },
    Invalid {
        description: "endTime before startTime",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               startTime: '2026-12-02T00:00:00Z', endTime: '2026-12-01T00:00:00Z'}",
        message: "endTime must be after startTime",
    },
    Invalid {
        description: "endTime equal to startTime in a different time zone",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               startTime: '2026-12-01T00:00:00Z', endTime: '2026-12-01T09:00:00+09:00'}",
        message: "endTime must be after startTime",
    },
    Invalid {
        description: "startTime is not a time",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               startTime: tomorrow}",
        message: "spec.startTime in body must be of type date-time",
    },
    Invalid {
        description: "endTime in the year 9999",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], endTime: '9999-12-31T23:59:59Z'}",
        message: "the year must be from 1 to 9998: omit endTime for an event without end",
    },
    Invalid {
        description: "seconds with a letter",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], endTime: '2099-01-01T00:00:59x5Z'}",
        message: "spec.endTime in body",
    },
    Invalid {
        description: "invalid time zone offset",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], endTime: '2099-01-01T00:00:00+99:99'}",
        message: "spec.endTime in body",
    },
    Invalid {
        description: "fraction of a nanosecond",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], endTime: '2099-01-01T00:00:00.1234567890Z'}",
        message: "spec.endTime in body",
    },
    Invalid {
        description: "NUL in policyName",
        spec: "{policyName: \"a\\u0000b\", totalCount: 1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}",
        message: "policyName must be one line of visible text",
    },
    Invalid {
        description: "escape sequence in policyName",
        spec: "{policyName: \"\\u001b[2J\", totalCount: 1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}",
        message: "policyName must be one line of visible text",
    },
    Invalid {
        description: "bidirectional formatting in policyName",
        spec: "{policyName: \"a\\u202eb\", totalCount: 1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}",
        message: "policyName must be one line of visible text",
    },
    Invalid {
        description: "blank policyName",
        spec: "{policyName: ' ', totalCount: 1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}",
        message: "policyName must be one line of visible text",
    },
    Invalid {
        description: "unknown field",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], colour: red}",
        message: ".spec.colour: field not declared in schema",
    },
    Invalid {
        description: "unknown field in a discount",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100, max: 5}]}",
        message: "discounts[0].max: field not declared in schema",
    },
    Invalid {
        description: "prefix with a space",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               code: {prefix: 'SUM MER'}}",
        message: "code.prefix may contain only the letters A-Z and digits 0-9",
    },
    Invalid {
        description: "lower-case prefix",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               code: {prefix: summer}}",
        message: "code.prefix may contain only the letters A-Z and digits 0-9",
    },
    Invalid {
        description: "empty prefix",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               code: {prefix: ''}}",
        message: "spec.code.prefix in body should be at least 1 chars long",
    },
    Invalid {
        description: "prefix longer than 16 characters",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               code: {prefix: ABCDEFGHIJKLMNOPQ}}",
        message: "spec.code.prefix: Too long: may not be more than 16",
    },
    Invalid {
        description: "code shorter than 10 characters",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               code: {length: 9}}",
        message: "spec.code.length in body should be greater than or equal to 10",
    },
    Invalid {
        description: "code longer than 12 characters",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               code: {length: 13}}",
        message: "spec.code.length in body should be less than or equal to 12",
    },
    Invalid {
        description: "unknown issuance",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               issuance: Stopped}",
        message: "supported values: \"Auto\", \"Paused\", \"Closed\"",
    },
    Invalid {
        description: "negative ttlSecondsAfterFinished",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               ttlSecondsAfterFinished: -1}",
        message: "spec.ttlSecondsAfterFinished in body should be greater than or equal to 0",
    },
    Invalid {
        description: "minReplicas of 0",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], scaling: {minReplicas: 0}}",
        message: "spec.scaling.minReplicas in body should be greater than or equal to 1",
    },
    Invalid {
        description: "scaling without minReplicas",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], scaling: {leadSeconds: 60}}",
        message: "spec.scaling.minReplicas: Required value",
    },
    Invalid {
        description: "leadSeconds of more than a day",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               scaling: {minReplicas: 1, leadSeconds: 86401}}",
        message: "spec.scaling.leadSeconds in body should be less than or equal to 86400",
    },
];
