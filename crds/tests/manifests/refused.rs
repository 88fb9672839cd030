//! New manifests that break a rule.

/// A new manifest that breaks a rule.
pub(crate) struct Refused {
    pub(crate) why: &'static str,
    pub(crate) spec: &'static str,
    pub(crate) message: &'static str,
}

pub(crate) const REFUSED: &[Refused] = &[
    Refused {
        why: "shares sum to 99",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 69}, \
               {type: Amount, value: 5000, allocationPercentage: 30}]}",
        message: "the allocationPercentage of all discounts must sum to 100",
    },
    Refused {
        why: "shares sum to 101",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 71}, \
               {type: Amount, value: 5000, allocationPercentage: 30}]}",
        message: "the allocationPercentage of all discounts must sum to 100",
    },
    Refused {
        why: "counts do not sum to the total",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, count: 70}, \
               {type: Amount, value: 5000, count: 31}]}",
        message: "the count of all discounts must sum to totalCount",
    },
    Refused {
        why: "percentages and counts",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 70}, \
               {type: Amount, value: 5000, count: 30}]}",
        message: "use allocationPercentage for all discounts, or count for all discounts",
    },
    Refused {
        why: "a discount with both shares",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100, count: 100}]}",
        message: "a discount takes either allocationPercentage or count: set one of them",
    },
    Refused {
        why: "a discount without a share",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10}]}",
        message: "a discount takes either allocationPercentage or count: set one of them",
    },
    Refused {
        why: "two equal discounts",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 70}, \
               {type: Percent, value: 10, allocationPercentage: 30}]}",
        message: "two discounts have the same type and value: merge them into one, or change one",
    },
    Refused {
        why: "Percent 0",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 0, allocationPercentage: 100}]}",
        message: "spec.discounts[0].value in body should be greater than or equal to 1",
    },
    Refused {
        why: "Percent 101",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 101, allocationPercentage: 100}]}",
        message: "a Percent discount has a value from 1 to 100",
    },
    Refused {
        why: "a share of 0 percent",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 1, allocationPercentage: 100}, \
               {type: Percent, value: 2, allocationPercentage: 0}]}",
        message: "spec.discounts[1].allocationPercentage in body should be greater than or equal to 1",
    },
    Refused {
        why: "a share that is not whole",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 1, allocationPercentage: 99.5}, \
               {type: Percent, value: 2, allocationPercentage: 0.5}]}",
        message: "spec.discounts[0].allocationPercentage",
    },
    Refused {
        why: "an unknown type of discount",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: PERCENT, value: 10, allocationPercentage: 100}]}",
        message: "supported values: \"Percent\", \"Amount\"",
    },
    Refused {
        why: "no discount",
        spec: "{policyName: p, totalCount: 100, discounts: []}",
        message: "spec.discounts in body should have at least 1 items",
    },
    Refused {
        why: "more than 20 discounts",
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
    Refused {
        why: "totalCount 0",
        spec: "{policyName: p, totalCount: 0, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}",
        message: "spec.totalCount in body should be greater than or equal to 1",
    },
    Refused {
        why: "totalCount -1",
        spec: "{policyName: p, totalCount: -1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}",
        message: "spec.totalCount in body should be greater than or equal to 1",
    },
    Refused {
        why: "totalCount 10^12",
        spec: "{policyName: p, totalCount: 1000000000000, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}",
        message: "spec.totalCount in body should be less than or equal to 10000000",
    },
    Refused {
        why: "no totalCount",
        spec: "{policyName: p, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}",
        message: "spec.totalCount: Required value",
    },
    Refused {
        why: "an empty policyName",
        spec: "{policyName: '', totalCount: 1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}",
        message: "spec.policyName in body should be at least 1 chars long",
    },
    Refused {
        why: "the end before the start",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               startTime: '2026-12-02T00:00:00Z', endTime: '2026-12-01T00:00:00Z'}",
        message: "endTime must be after startTime",
    },
    Refused {
        why: "the end at the start, in another time zone",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               startTime: '2026-12-01T00:00:00Z', endTime: '2026-12-01T09:00:00+09:00'}",
        message: "endTime must be after startTime",
    },
    Refused {
        why: "a start that is no time",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               startTime: tomorrow}",
        message: "spec.startTime in body must be of type date-time",
    },
    Refused {
        why: "an end in the last year",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], endTime: '9999-12-31T23:59:59Z'}",
        message: "the year is from 1 to 9998: leave endTime out where there is no end",
    },
    Refused {
        why: "seconds with a letter",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], endTime: '2099-01-01T00:00:59x5Z'}",
        message: "spec.endTime in body",
    },
    Refused {
        why: "an offset that nobody has",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], endTime: '2099-01-01T00:00:00+99:99'}",
        message: "spec.endTime in body",
    },
    Refused {
        why: "less than a nanosecond",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], endTime: '2099-01-01T00:00:00.1234567890Z'}",
        message: "spec.endTime in body",
    },
    Refused {
        why: "a NUL in policyName",
        spec: "{policyName: \"a\\u0000b\", totalCount: 1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}",
        message: "policyName is one line of visible text",
    },
    Refused {
        why: "an escape sequence in policyName",
        spec: "{policyName: \"\\u001b[2J\", totalCount: 1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}",
        message: "policyName is one line of visible text",
    },
    Refused {
        why: "a policyName that runs backwards",
        spec: "{policyName: \"a\\u202eb\", totalCount: 1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}",
        message: "policyName is one line of visible text",
    },
    Refused {
        why: "a blank policyName",
        spec: "{policyName: ' ', totalCount: 1, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}",
        message: "policyName is one line of visible text",
    },
    Refused {
        why: "an unknown field",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], colour: red}",
        message: ".spec.colour: field not declared in schema",
    },
    Refused {
        why: "an unknown field in a discount",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100, max: 5}]}",
        message: "discounts[0].max: field not declared in schema",
    },
    Refused {
        why: "a prefix with a space",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               code: {prefix: 'SUM MER'}}",
        message: "code.prefix has only the letters A-Z and digits 0-9, without spaces",
    },
    Refused {
        why: "a prefix in small letters",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               code: {prefix: summer}}",
        message: "code.prefix has only the letters A-Z and digits 0-9, without spaces",
    },
    Refused {
        why: "an empty prefix",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               code: {prefix: ''}}",
        message: "spec.code.prefix in body should be at least 1 chars long",
    },
    Refused {
        why: "a long prefix",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               code: {prefix: ABCDEFGHIJKLMNOPQ}}",
        message: "spec.code.prefix: Too long: may not be more than 16",
    },
    Refused {
        why: "a code that could be guessed",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               code: {length: 9}}",
        message: "spec.code.length in body should be greater than or equal to 10",
    },
    Refused {
        why: "a code of more letters than it has random bits",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               code: {length: 13}}",
        message: "spec.code.length in body should be less than or equal to 12",
    },
    Refused {
        why: "an issuance that nobody knows",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               issuance: Stopped}",
        message: "supported values: \"Auto\", \"Paused\", \"Closed\"",
    },
    Refused {
        why: "a negative time to live",
        spec: "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}], \
               ttlSecondsAfterFinished: -1}",
        message: "spec.ttlSecondsAfterFinished in body should be greater than or equal to 0",
    },
    Refused {
        why: "no issuer",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], scaling: {minReplicas: 0}}",
        message: "spec.scaling.minReplicas in body should be greater than or equal to 1",
    },
    Refused {
        why: "scaling without a number",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], scaling: {leadSeconds: 60}}",
        message: "spec.scaling.minReplicas: Required value",
    },
    Refused {
        why: "issuers a day and a second ahead",
        spec: "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 10, count: 1}], \
               scaling: {minReplicas: 1, leadSeconds: 86401}}",
        message: "spec.scaling.leadSeconds in body should be less than or equal to 86400",
    },
];
