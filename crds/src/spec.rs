//! Spec of a `CouponEvent`.
#![expect(unreachable_pub, reason = "KubeSchema copies each type into a function, where nothing is reachable")]

use couponry_domain::{Acknowledge, DiscountType};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{rules, status::CouponEventStatus};

/// A first-come coupon event. Its coupons are generated in advance, and each user receives at most one.
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
    doc = "A first-come coupon event. Its coupons are generated in advance, and each user receives at most one. Its \
           name is the eventId that clients send.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether all coupons are loaded and the event is not stalled."
    ),
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Open\")].reason",
        description = "State of the event: the reason of the condition Open."
    ),
    printcolumn(
        name = "Total",
        type_ = "integer",
        json_path = ".spec.totalCount",
        description = "Number of coupons of the event."
    ),
    printcolumn(
        name = "Issued",
        type_ = "integer",
        json_path = ".status.issued",
        description = "Number of issued coupons."
    ),
    printcolumn(
        name = "Recorded",
        type_ = "integer",
        json_path = ".status.recorded",
        description = "Number of issued coupons that are recorded in Postgres."
    ),
    printcolumn(
        name = "Start",
        type_ = "string",
        json_path = ".spec.startTime",
        description = "Start of issuing. Empty: as soon as the coupons are loaded."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Available",
        type_ = "integer",
        json_path = ".status.available",
        description = "Number of coupons that can still be issued.",
        priority = 1
    ),
    printcolumn(
        name = "End",
        type_ = "string",
        json_path = ".spec.endTime",
        description = "End of issuing. Empty: when the event is sold out.",
        priority = 1
    ),
    validation = rules::NAME_LENGTH,
    validation = rules::TOTAL_COUNT_NOT_LOWERED,
    validation = rules::DISCOUNTS_IMMUTABLE,
    validation = rules::CONDITIONS_IMMUTABLE,
    validation = rules::COUNTS_NOT_LOWERED,
    validation = rules::CURRENCY_IMMUTABLE,
    validation = rules::START_TIME_IMMUTABLE,
    validation = rules::VALIDITY_IMMUTABLE,
    validation = rules::ADMISSION_IMMUTABLE,
    validation = rules::DROPS_IMMUTABLE
)]
#[x_kube(
    validation = rules::PERCENTAGES_SUM_TO_100,
    validation = rules::COUNTS_SUM_TO_TOTAL,
    validation = rules::SAME_KIND_OF_SHARE,
    validation = rules::DISCOUNTS_UNIQUE,
    validation = rules::START_BEFORE_END,
    validation = rules::START_BEFORE_UNTIL,
    validation = rules::ADMISSION_REQUIRES_START,
    validation = rules::ADMISSION_BEFORE_END,
    validation = rules::DROPS_WITHIN_WINDOW,
    validation = rules::DROPS_WITHIN_TOTAL,
    validation = rules::CODE_IMMUTABLE,
    validation = rules::CLOSED_IS_FINAL
)]
#[serde(rename_all = "camelCase")]
pub struct CouponEventSpec {
    /// Display name of the promotion, stored in Postgres with the event.
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(validation = rules::POLICY_NAME_ONE_VISIBLE_LINE)]
    pub policy_name: String,

    /// Number of coupons. It can be raised at any time (a top-up), but not lowered once the event has opened.
    #[schemars(with = "i64", range(min = 1, max = 10_000_000))]
    pub total_count: u64,

    /// Discounts of the coupons. Either all specify allocationPercentage, or all specify count. Immutable once the
    /// event has opened, except that counts can be raised.
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub discounts: Vec<DiscountSpec>,

    /// How long the coupons are valid after they were issued. Default: without limit. Immutable once the event has
    /// opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ValiditySpec")]
    pub validity: Option<ValiditySpec>,

    /// Currency of all amounts, as a code of ISO 4217. Amounts are in its minor units: 500 is 5.00 EUR, or 500 JPY.
    /// Default: not specified; the shop decides it. Immutable once the event has opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 3, max = 3))]
    #[x_kube(validation = rules::CURRENCY_IN_USE)]
    pub currency: Option<String>,

    /// Start of issuing. Default: as soon as the coupons are loaded. Immutable once the event has opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time", extend("pattern" = rules::TIME_PATTERN))]
    #[x_kube(validation = rules::YEAR_IN_RANGE)]
    pub start_time: Option<Time>,

    /// End of issuing, exclusive. Default: validity.until, otherwise when the event is sold out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time", extend("pattern" = rules::TIME_PATTERN))]
    #[x_kube(validation = rules::YEAR_IN_RANGE)]
    pub end_time: Option<Time>,

    /// Admits the users one after the other from startTime on, in a random order. Until then they receive WAIT with the
    /// time. Default: all users are admitted from the start. Immutable once the event has opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AdmissionSpec")]
    pub admission: Option<AdmissionSpec>,

    /// Coupons that are held back until later, in the order of their times. While all others are issued, users receive
    /// the time of the next drop. Default: all coupons are available from the start. Immutable once the event has
    /// opened; coupons of a top-up are available at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(merge_strategy = ListMerge::Atomic, validation = rules::DROPS_ASCENDING)]
    pub drops: Vec<DropSpec>,

    /// Auto issues coupons between startTime and endTime. Paused suspends issuing until it is set back to Auto.
    /// Closed ends the event permanently.
    #[serde(default)]
    pub issuance: IssuingMode,

    /// Source and format of the coupon codes. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "CodeSpec")]
    pub code: Option<CodeSpec>,

    /// When the issuer responds to the user. Redis: as soon as Redis has issued the coupon. Kafka: after Kafka has
    /// acknowledged the record too, which is slower but survives the loss of Redis.
    #[serde(default)]
    #[schemars(with = "AcknowledgeSchema")]
    pub acknowledge: Acknowledge,

    /// Whether deleting the event keeps (Retain) or deletes (Delete) its rows in Postgres.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// Seconds from status.finishedAt, or from endTime if that is later, until the coupons are deleted from Redis,
    /// permanently. The event ends at endTime, with issuance Closed (endTime is ignored then), or, without endTime,
    /// when it is sold out. Default: the coupons stay in Redis until the event is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64", range(min = 0, max = 315_360_000))]
    pub ttl_seconds_after_finished: Option<u32>,

    /// Minimum number of issuers around the event. Requires autoscaling of the issuers (issuer.autoscaling.enabled in
    /// the chart). Default: the number depends on load only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ScalingSpec")]
    pub scaling: Option<ScalingSpec>,
}

/// Minimum number of issuers around an event. The maximum applies to overlapping events.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScalingSpec {
    /// Minimum number of issuers. Autoscaling may add more, up to the limit of the installation, which may be lower.
    #[schemars(with = "i64", range(min = 1, max = 1000))]
    pub min_replicas: u32,

    /// Seconds before startTime at which the issuers are started. Without startTime they are started when the event
    /// is created.
    #[serde(default = "default_scaling_seconds")]
    #[schemars(with = "i64", range(min = 0, max = 86_400))]
    pub lead_seconds: u32,

    /// Seconds after the event has ended, is sold out or closed until the minimum no longer applies.
    #[serde(default = "default_scaling_seconds")]
    #[schemars(with = "i64", range(min = 0, max = 86_400))]
    pub cooldown_seconds: u32,
}

const fn default_scaling_seconds() -> u32 {
    300
}

/// When users are admitted.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionSpec {
    /// Seconds from startTime until all users are admitted. When a user is admitted depends on the userId and a secret
    /// of the event, not on when or how often the user sends requests.
    #[schemars(with = "i64", range(min = 1, max = 86_400))]
    pub ramp_seconds: u32,
}

/// Coupons that are held back until later.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DropSpec {
    /// When the coupons become available: after startTime and before endTime, with at most three decimal places of a
    /// second.
    #[schemars(extend("pattern" = rules::DROP_PATTERN))]
    #[x_kube(validation = rules::DROP_YEAR_IN_RANGE)]
    pub at: Time,

    /// Number of coupons. The counts of all drops must not exceed totalCount.
    #[schemars(with = "i64", range(min = 1, max = 10_000_000))]
    pub count: u64,
}

/// How long coupons are valid.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = rules::EXACTLY_ONE_END)]
#[serde(rename_all = "camelCase")]
pub struct ValiditySpec {
    /// From the time at which a coupon is issued, as an ISO 8601 duration of years, months, weeks, days, hours and
    /// minutes: P30D, P1M, PT48H. Days and longer units are those of the calendar in timeZone. Either this or until.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = 40))]
    #[x_kube(validation = rules::DURATION_FORMAT)]
    pub duration: Option<String>,

    /// When all coupons expire, exclusive, whenever they were issued. Coupons are not issued after it. Either this or
    /// duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time", extend("pattern" = rules::TIME_PATTERN))]
    #[x_kube(validation = rules::YEAR_IN_RANGE)]
    pub until: Option<Time>,

    /// Time zone of the calendar, as a name of the IANA database: Europe/Berlin, Asia/Seoul.
    #[serde(default = "default_time_zone")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::TIME_ZONE_KNOWN)]
    pub time_zone: String,

    /// Extends the validity to the end of the day in timeZone: until the next midnight.
    #[serde(default)]
    pub end_of_day: bool,
}

fn default_time_zone() -> String {
    "UTC".to_owned()
}

/// A discount and its share of the coupons.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = rules::PERCENT_AT_MOST_100,
    validation = rules::EXACTLY_ONE_SHARE,
    validation = rules::MAX_DISCOUNT_OF_PERCENT
)]
#[serde(rename_all = "camelCase")]
pub struct DiscountSpec {
    /// Percent: percentage of the price. Amount: amount of money.
    #[serde(rename = "type", with = "DiscountTypeName")]
    pub kind: DiscountType,

    /// Percentage (1 to 100), or minor units of the currency, such as cents.
    #[schemars(with = "i64", range(min = 1, max = 1_000_000_000))]
    pub value: u32,

    /// Share of totalCount in whole percent. The percentages of all discounts must sum to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64", range(min = 1, max = 100))]
    pub allocation_percentage: Option<u8>,

    /// Number of coupons with this discount. The counts of all discounts must sum to totalCount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64", range(min = 1, max = 10_000_000))]
    pub count: Option<u64>,

    /// Maximum amount off an order, in minor units of the currency. Percent only. Default: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64", range(min = 1, max = 1_000_000_000_000_i64))]
    pub max_discount: Option<u64>,

    /// Minimum amount of an order, in minor units of the currency. Default: any order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64", range(min = 1, max = 1_000_000_000_000_i64))]
    pub minimum_order_amount: Option<u64>,
}

/// [`DiscountType`] as spelled in the manifest; Redis, Kafka and HTTP use upper case.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(remote = "DiscountType")]
enum DiscountTypeName {
    /// `value` percent off.
    Percent,
    /// `value` minor units of the currency off.
    Amount,
}

/// Whether coupons are issued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IssuingMode {
    /// Between startTime and endTime.
    #[default]
    Auto,
    /// Suspended until it is set back to Auto.
    Paused,
    /// Ended permanently.
    Closed,
}

/// Where the codes of an event come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CodeSource {
    /// From a secret of the event.
    #[default]
    Generated,
    /// From a file.
    Imported,
}

/// The schema of [`Acknowledge`].
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
enum AcknowledgeSchema {
    /// After Redis has issued the coupon.
    Redis,
    /// After Kafka has acknowledged the record too.
    Kafka,
}

/// Whether deleting the event deletes its rows in Postgres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Keep the rows.
    #[default]
    Retain,
    /// Delete the rows.
    Delete,
}

/// Source and format of the coupon codes.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = rules::FORMAT_OF_GENERATED)]
#[serde(rename_all = "camelCase")]
pub struct CodeSpec {
    /// Generated: by Couponry. Imported: with `kubectl couponry import`; the event waits for as many codes of each
    /// discount as it has coupons.
    #[serde(default)]
    pub source: CodeSource,

    /// Prefix of each generated code, followed by a hyphen: A-Z and 0-9. Default: neither prefix nor hyphen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 16))]
    #[x_kube(validation = rules::PREFIX_ALPHABET)]
    pub prefix: Option<String>,

    /// Number of random characters of each generated code, from an alphabet of 32 that are easy to distinguish (A-Z
    /// without I and O, 2-9).
    #[serde(default = "default_length")]
    #[schemars(with = "i64", range(min = couponry_domain::code::MIN_LENGTH, max = couponry_domain::code::MAX_LENGTH))]
    pub length: u8,
}

const fn default_length() -> u8 {
    couponry_domain::code::MAX_LENGTH
}
