//! Status of a `CouponEvent`, written by the operator.
#![expect(unreachable_pub, reason = "KubeSchema copies each type into a function, where nothing is reachable")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Observed state of the event, written by the operator.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CouponEventStatus {
    /// The metadata.generation that this status refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub observed_generation: Option<i64>,

    /// Conditions of the event: Ready, Preloaded, Open, Recorded, Stalled, Balanced, Durable, and Scaled if
    /// spec.scaling is set. The reason of Open is the state of the event, or what blocks issuing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// Number of coupons loaded into Redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub loaded: Option<u64>,

    /// Number of issued coupons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub issued: Option<u64>,

    /// Number of issued coupons that are recorded in Postgres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub recorded: Option<u64>,

    /// Number of recorded coupons that are reserved by an order. Set once a coupon was reserved, redeemed or voided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub reserved: Option<u64>,

    /// Number of recorded coupons that were redeemed. Set once a coupon was reserved, redeemed or voided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub redeemed: Option<u64>,

    /// Number of recorded coupons that were voided. Set once a coupon was reserved, redeemed or voided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub voided: Option<u64>,

    /// Number of coupons in the Redis queue, which can still be issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub available: Option<u64>,

    /// Latest import of codes. Set once codes were imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ImportStatus")]
    pub imported: Option<ImportStatus>,

    /// Number of coupons in each state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "BalanceStatus")]
    pub balance: Option<BalanceStatus>,

    /// When issuing first became possible. Afterwards totalCount can only be raised, and discounts and startTime are
    /// immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub opened_at: Option<Time>,

    /// When the operator first observed that no coupon was available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub sold_out_at: Option<Time>,

    /// When the event had ended, was closed or sold out, and every issued coupon was recorded, by the clock of Redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub finished_at: Option<Time>,
}

/// An import of codes.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportStatus {
    /// Number of imported codes.
    #[schemars(with = "i64")]
    pub count: u64,

    /// SHA-256 of the file, as hexadecimal digits.
    pub sha256: String,

    /// When the codes were imported, by the clock of Postgres.
    pub imported_at: Time,
}

/// Number of coupons in each state. After loading: generated = available + unrecorded + recorded + withheld.
#[derive(KubeSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BalanceStatus {
    /// Coupons that exist in Postgres.
    #[schemars(with = "i64")]
    pub generated: u64,

    /// Coupons in the Redis queue.
    #[schemars(with = "i64")]
    pub available: u64,

    /// Issued coupons that are not yet recorded in Postgres.
    #[schemars(with = "i64")]
    pub unrecorded: u64,

    /// Issued coupons that are recorded in Postgres.
    #[schemars(with = "i64")]
    pub recorded: u64,

    /// Coupons whose issuance was cancelled because it could not be recorded, and that are not back in the queue.
    #[schemars(with = "i64")]
    pub withheld: u64,
}

impl CouponEventStatus {
    /// The condition of this type, if present.
    #[must_use]
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == type_)
    }

    /// Whether the gate may be open: the condition `Open` is True, or has a reason that is not a state of the event.
    #[must_use]
    pub fn may_be_open(&self) -> bool {
        use reason::{CLOSED, ENDED, HELD, LOADING, PAUSED, SCHEDULED, SOLD_OUT};
        let not_open = [LOADING, SCHEDULED, PAUSED, HELD, SOLD_OUT, ENDED, CLOSED];
        self.condition(condition::OPEN).is_some_and(|open| !not_open.contains(&open.reason.as_str()))
    }
}

/// Types of the conditions.
pub mod condition {
    /// The stores match the manifest: all coupons are loaded, or the event is closed or retired. While `Stalled` is
    /// True, it is False with the same reason.
    pub const READY: &str = "Ready";
    /// All coupons in Postgres are loaded into Redis, and no codes have to be imported.
    pub const PRELOADED: &str = "Preloaded";
    /// Coupons can be issued now. Its reason is the event's state, or what prevents issuing, usually that of `Stalled`.
    /// It is Unknown while the operator cannot observe whether issuers serve users.
    pub const OPEN: &str = "Open";
    /// Every issued coupon is recorded in Postgres. Unknown while the event is stalled and not over.
    pub const RECORDED: &str = "Recorded";
    /// The operator cannot make progress; the message describes the action to take.
    pub const STALLED: &str = "Stalled";

    /// The counts of Redis and Postgres match. Unknown while they cannot be observed.
    pub const BALANCED: &str = "Balanced";
    /// Issued coupons survive a crash of Redis.
    pub const DURABLE: &str = "Durable";
    /// As many issuers are ready as `spec.scaling` requires. Present only if it is set.
    pub const SCALED: &str = "Scaled";

    /// All types, in the order in which they are reported.
    pub const ALL: [&str; 8] = [READY, PRELOADED, OPEN, RECORDED, STALLED, BALANCED, DURABLE, SCALED];
}

/// Reasons of the conditions.
pub mod reason {
    // Open

    /// Not all coupons are loaded yet.
    pub const LOADING: &str = "Loading";
    /// All coupons are loaded; the start time is in the future.
    pub const SCHEDULED: &str = "Scheduled";
    /// Coupons can be issued.
    pub const OPEN: &str = "Open";
    /// Suspended by `issuance: Paused`.
    pub const PAUSED: &str = "Paused";
    /// Suspended by the annotation `couponry.dev/hold`, also while coupons are still being loaded. The message has the
    /// reason of the hold.
    pub const HELD: &str = "Held";
    /// No coupon is available.
    pub const SOLD_OUT: &str = "SoldOut";
    /// The end time has passed.
    pub const ENDED: &str = "Ended";
    /// Ended by `issuance: Closed`.
    pub const CLOSED: &str = "Closed";

    // Ready, Preloaded, Recorded

    /// All coupons are loaded.
    pub const STOCK_COMPLETE: &str = "StockComplete";
    /// Coupons are being generated and loaded.
    pub const PRELOADING: &str = "Preloading";
    /// Coupons are being added to an event that has opened.
    pub const TOPPING_UP: &str = "ToppingUp";
    /// Codes have to be imported; the message contains their number.
    pub const AWAITING_CODES: &str = "AwaitingCodes";
    /// No coupon has been issued yet.
    pub const NOTHING_ISSUED: &str = "NothingIssued";
    /// Issued coupons are being recorded.
    pub const RECORDING: &str = "Recording";
    /// Issued coupons have not been recorded for longer than usual.
    pub const RECORDING_STALLED: &str = "RecordingStalled";
    /// Every issued coupon is recorded.
    pub const ALL_RECORDED: &str = "AllRecorded";

    /// The event has ended, and its coupons were removed from Redis.
    pub const RETIRED: &str = "Retired";

    // Balanced; also DriftFound

    /// The counts of Redis and Postgres match.
    pub const COUNTS_MATCH: &str = "CountsMatch";

    // Durable; also BackendUnavailable

    /// Redis responds only after writing to disk.
    pub const WRITES_SYNCED: &str = "WritesSynced";
    /// A crash of Redis can lose recent writes.
    pub const WRITES_MAY_BE_LOST: &str = "WritesMayBeLost";
    /// The settings of Redis cannot be read.
    pub const SETTINGS_UNAVAILABLE: &str = "SettingsUnavailable";

    // Scaled

    /// The lead time before the start has not begun.
    pub const SCALING_SCHEDULED: &str = "ScalingScheduled";
    /// Issuers are starting.
    pub const ISSUERS_STARTING: &str = "IssuersStarting";
    /// As many issuers are ready as the event requires.
    pub const ISSUERS_READY: &str = "IssuersReady";
    /// A quota of the namespace prevents more issuers.
    pub const QUOTA_EXCEEDED: &str = "QuotaExceeded";
    /// The API server rejects more pods for a reason other than a quota.
    pub const POD_CREATION_FAILED: &str = "PodCreationFailed";
    /// Issuers cannot be scheduled onto any node.
    pub const PODS_UNSCHEDULABLE: &str = "PodsUnschedulable";
    /// Issuers are scheduled but do not become ready.
    pub const PODS_FAILING: &str = "PodsFailing";
    /// The event has ended and no longer requires issuers.
    pub const SCALED_DOWN: &str = "ScaledDown";
    /// The operator cannot scale the issuers.
    pub const SCALING_FAILED: &str = "ScalingFailed";
    /// Autoscaling of the issuers is not enabled.
    pub const SCALING_DISABLED: &str = "ScalingDisabled";

    // Stalled

    /// The operator can make progress.
    pub const NOT_STALLED: &str = "NotStalled";
    /// Redis, Postgres or Kafka is unavailable.
    pub const BACKEND_UNAVAILABLE: &str = "BackendUnavailable";
    /// Redis restarted, failed over or lost data: issuing is suspended until it is verified or restored.
    pub const REDIS_UNVERIFIED: &str = "RedisUnverified";
    /// Redis responds, but rejects commands that issuing requires: its memory is full, its disk fails, replicas or
    /// permissions are missing, or it is a replica.
    pub const REDIS_REJECTS_COMMANDS: &str = "RedisRejectsCommands";
    /// A key of the event in Redis has another type than Couponry writes.
    pub const WRONG_KEY_TYPE: &str = "WrongKeyType";
    /// Redis has lost couponMeta of the event, but has other keys of it.
    pub const ORPHANED_KEYS: &str = "OrphanedKeys";
    /// A field of couponMeta of the event in Redis has a value that Couponry does not write.
    pub const INVALID_VALUE: &str = "InvalidValue";
    /// Redis and Postgres do not contain the same coupons.
    pub const DRIFT_FOUND: &str = "DriftFound";
    /// The spec was changed in a way that cannot be applied anymore.
    pub const CHANGE_NOT_POSSIBLE: &str = "ChangeNotPossible";
    /// The object does not match the schema or its rules, such as one created under an older CRD.
    pub const INVALID_OBJECT: &str = "InvalidObject";
    /// Preloading failed; the message contains the cause. The operator retries.
    pub const PRELOAD_FAILED: &str = "PreloadFailed";
    /// The stores have another event with this name.
    pub const NAME_CONFLICT: &str = "NameConflict";
    /// The event is being deleted.
    pub const DELETING: &str = "Deleting";
    /// A defect of the operator, which retries; the message describes it.
    pub const INTERNAL_ERROR: &str = "InternalError";
}
