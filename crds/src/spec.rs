//! What the author of a `CouponEvent` asks for.
#![expect(unreachable_pub, reason = "KubeSchema copies each type into a function, where nothing is reachable")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{rules, status::CouponEventStatus};

/// A first-come coupon event: coupons are made before it, and one user gets at most one of them.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "couponry.dev",
    version = "v1alpha1",
    kind = "CouponEvent",
    namespaced,
    shortname = "ce",
    category = "coupons",
    status = "CouponEventStatus",
    derive = "PartialEq",
    doc = "A first-come coupon event: coupons are made before it, and one user gets at most one of them. Its name is the eventId \
           that clients send.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the event does what its manifest says."
    ),
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Open\")].reason",
        description = "Whether users get coupons now, or why not."
    ),
    printcolumn(
        name = "Total",
        type_ = "integer",
        json_path = ".spec.totalCount",
        description = "How many coupons the event has."
    ),
    printcolumn(
        name = "Issued",
        type_ = "integer",
        json_path = ".status.issued",
        description = "How many coupons users have."
    ),
    printcolumn(
        name = "Recorded",
        type_ = "integer",
        json_path = ".status.recorded",
        description = "How many of them are recorded in Postgres."
    ),
    printcolumn(
        name = "Start",
        type_ = "string",
        json_path = ".spec.startTime",
        description = "From when on users get coupons; empty: as soon as they are loaded."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Available",
        type_ = "integer",
        json_path = ".status.available",
        description = "How many coupons are left for users.",
        priority = 1
    ),
    printcolumn(
        name = "End",
        type_ = "string",
        json_path = ".spec.endTime",
        description = "From when on users get no more coupons; empty: until they are used up.",
        priority = 1
    ),
    validation = rules::NAME_FITS,
    validation = rules::TOTAL_NEVER_SHRINKS,
    validation = rules::DISCOUNTS_STAY,
    validation = rules::COUNTS_NEVER_SHRINK,
    validation = rules::START_STAYS
)]
#[x_kube(
    validation = rules::PERCENTAGES_SUM_TO_100,
    validation = rules::COUNTS_SUM_TO_TOTAL,
    validation = rules::ONE_KIND_OF_SHARE,
    validation = rules::DISCOUNTS_DIFFER,
    validation = rules::START_BEFORE_END,
    validation = rules::CODE_STAYS,
    validation = rules::CLOSED_IS_FINAL
)]
#[serde(rename_all = "camelCase")]
pub struct CouponEventSpec {
    /// What people call this promotion. Kept with its records.
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(validation = rules::POLICY_NAME_IS_TEXT)]
    pub policy_name: String,

    /// How many coupons there are. It can be raised at any time (a top-up), but not lowered once the event has opened.
    #[schemars(with = "i64", range(min = 1, max = 10_000_000))]
    pub total_count: u64,

    /// What the coupons are worth, and how many there are of each. Either all take allocationPercentage, or all take count.
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub discounts: Vec<DiscountSpec>,

    /// From when on users get coupons. Without it: as soon as the coupons are loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time", extend("pattern" = rules::TIME_PATTERN))]
    #[x_kube(validation = rules::TIME_IS_READABLE)]
    pub start_time: Option<Time>,

    /// From when on users get no more coupons. Without it: until they are used up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time", extend("pattern" = rules::TIME_PATTERN))]
    #[x_kube(validation = rules::TIME_IS_READABLE)]
    pub end_time: Option<Time>,

    /// Auto gives out coupons between startTime and endTime. Paused holds the event until it is set back to Auto. Closed ends
    /// it for good.
    #[serde(default)]
    pub issuance: Issuance,

    /// How the codes of the coupons look. It cannot be changed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "CodeSpec")]
    pub code: Option<CodeSpec>,

    /// When a user is told that the coupon is theirs. Redis: after the atomic step that gave it. Kafka: after the brokers have
    /// its record too, which is slower and survives the loss of Redis.
    #[serde(default)]
    pub acknowledge: Acknowledge,

    /// What happens to the rows in Postgres when the event is deleted. Retain keeps them, Delete removes them.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// That many seconds after the end, once everything is recorded, the coupons of the event leave Redis, for good. The end is
    /// endTime, or issuance Closed, or where there is no endTime when all coupons are used up. Without it: when the event is
    /// deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64", range(min = 0, max = 315_360_000))]
    pub ttl_seconds_after_finished: Option<u32>,

    /// How many issuers are to be ready for the crowd. Without it: as many as their load asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ScalingSpec")]
    pub scaling: Option<ScalingSpec>,
}

/// How many issuers there are around an event, whatever their load is then. Of several events at once the largest number counts.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScalingSpec {
    /// So many issuers at least; more, when their load asks for it. The installation may have a lower limit.
    #[schemars(with = "i64", range(min = 1, max = 1000))]
    pub min_replicas: u32,

    /// That many seconds before startTime they begin to start. Without startTime they start when the event is made.
    #[serde(default = "default_scaling_seconds")]
    #[schemars(with = "i64", range(min = 0, max = 86_400))]
    pub lead_seconds: u32,

    /// That many seconds after users get no more coupons (endTime, sold out or closed) they are no longer asked for.
    #[serde(default = "default_scaling_seconds")]
    #[schemars(with = "i64", range(min = 0, max = 86_400))]
    pub cooldown_seconds: u32,
}

const fn default_scaling_seconds() -> u32 {
    300
}

/// A discount and its share of the coupons.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = rules::PERCENT_IS_AT_MOST_100, validation = rules::ONE_SHARE)]
#[serde(rename_all = "camelCase")]
pub struct DiscountSpec {
    /// Percent takes percent off the price, Amount takes units of the shop's currency off.
    #[serde(rename = "type")]
    pub kind: DiscountKind,

    /// How many percent (1 to 100), or how many units of currency.
    #[schemars(with = "i64", range(min = 1, max = 1_000_000_000))]
    pub value: u32,

    /// This discount's share of totalCount in whole percent. Over all discounts they sum to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64", range(min = 1, max = 100))]
    pub allocation_percentage: Option<u8>,

    /// How many coupons have this discount. Over all discounts they sum to totalCount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64", range(min = 1, max = 10_000_000))]
    pub count: Option<u64>,
}

/// The kind of a discount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DiscountKind {
    /// `value` percent off.
    Percent,
    /// `value` units of currency off.
    Amount,
}

/// Whether coupons are given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Issuance {
    /// Between start and end.
    #[default]
    Auto,
    /// Not now.
    Paused,
    /// Never again.
    Closed,
}

/// When a user is told that a coupon is theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Acknowledge {
    /// After the atomic step in Redis.
    #[default]
    Redis,
    /// After the brokers confirmed the record.
    Kafka,
}

/// What happens to the rows in Postgres when the event is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They stay.
    #[default]
    Retain,
    /// They go.
    Delete,
}

/// How the codes of an event look.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CodeSpec {
    /// Capital letters and digits that each code begins with, followed by a dash. Without it: no dash either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 16))]
    #[x_kube(validation = rules::PREFIX_IS_READABLE)]
    pub prefix: Option<String>,

    /// How many random letters and digits each code has, of 32 that cannot be confused (A-Z without I and O, and 2-9).
    #[serde(default = "default_length")]
    #[schemars(with = "i64", range(min = couponry_domain::code::MIN_LENGTH, max = couponry_domain::code::MAX_LENGTH))]
    pub length: u8,
}

const fn default_length() -> u8 {
    couponry_domain::code::MAX_LENGTH
}
