//! What the operator reports about a `CouponEvent`.
#![expect(unreachable_pub, reason = "KubeSchema copies each type into a function, where nothing is reachable")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What the operator has seen and done. There is no phase: the conditions say what holds.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CouponEventStatus {
    /// The generation of the manifest that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub observed_generation: Option<i64>,

    /// Ready, Preloaded, Open, Recorded, Stalled, Balanced, Durable, and with spec.scaling Scaled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// How many coupons are loaded into Redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub loaded: Option<u64>,

    /// How many coupons users have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub issued: Option<u64>,

    /// How many of the issued coupons are recorded in Postgres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub recorded: Option<u64>,

    /// How many coupons are left for users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub available: Option<u64>,

    /// Where all coupons are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "BalanceStatus")]
    pub balance: Option<BalanceStatus>,

    /// When users could first get coupons. From then on totalCount can only be raised, and discounts and startTime stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub opened_at: Option<Time>,

    /// When the operator first saw that no coupon was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub sold_out_at: Option<Time>,

    /// When the event was over and everything issued was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub finished_at: Option<Time>,
}

/// Where all coupons are. Once all are loaded: generated = available + unrecorded + recorded + voided.
#[derive(KubeSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BalanceStatus {
    /// How many coupons were made, in Postgres.
    #[schemars(with = "i64")]
    pub generated: u64,

    /// How many wait in Redis for users.
    #[schemars(with = "i64")]
    pub available: u64,

    /// How many users have that are not recorded in Postgres yet.
    #[schemars(with = "i64")]
    pub unrecorded: u64,

    /// How many users have that are recorded in Postgres.
    #[schemars(with = "i64")]
    pub recorded: u64,

    /// How many were taken back from a user, because they could not be recorded, and not given to anyone again.
    #[schemars(with = "i64")]
    pub voided: u64,
}

impl CouponEventStatus {
    /// The condition of this type, if it was reported yet.
    #[must_use]
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == type_)
    }
}

/// The types of the conditions.
pub mod condition {
    /// The event does what its manifest says: the stock is whole, and nothing stands in the way.
    pub const READY: &str = "Ready";
    /// Postgres and Redis hold exactly the coupons that the manifest asks for.
    pub const PRELOADED: &str = "Preloaded";
    /// Users get coupons now. Its reason is the event's state.
    pub const OPEN: &str = "Open";
    /// Everything issued is recorded in Postgres.
    pub const RECORDED: &str = "Recorded";
    /// Something stands in the way; its message says what to do.
    pub const STALLED: &str = "Stalled";

    /// Every coupon is in one place: Redis and Postgres add up.
    pub const BALANCED: &str = "Balanced";
    /// What users are told survives a crash of Redis.
    pub const DURABLE: &str = "Durable";
    /// As many issuers as the event asks for are ready. Only of events that ask for some.
    pub const SCALED: &str = "Scaled";

    /// All of them, in the order in which they are reported.
    pub const ALL: [&str; 8] = [READY, PRELOADED, OPEN, RECORDED, STALLED, BALANCED, DURABLE, SCALED];
}

/// The reasons of the conditions.
pub mod reason {
    // Open

    /// The stock is not whole yet.
    pub const LOADING: &str = "Loading";
    /// The stock is whole, the start is not reached.
    pub const SCHEDULED: &str = "Scheduled";
    /// Users get coupons.
    pub const OPEN: &str = "Open";
    /// Held by `issuance: Paused`.
    pub const PAUSED: &str = "Paused";
    /// No coupon is left.
    pub const SOLD_OUT: &str = "SoldOut";
    /// The end is reached.
    pub const ENDED: &str = "Ended";
    /// Ended by `issuance: Closed`.
    pub const CLOSED: &str = "Closed";

    // Ready, Preloaded, Recorded

    /// The stock is whole.
    pub const STOCK_COMPLETE: &str = "StockComplete";
    /// Coupons are written to Postgres and Redis.
    pub const PRELOADING: &str = "Preloading";
    /// Coupons are added to an event that was opened.
    pub const TOPPING_UP: &str = "ToppingUp";
    /// Nothing was issued yet.
    pub const NOTHING_ISSUED: &str = "NothingIssued";
    /// Issued coupons are on their way to Postgres.
    pub const RECORDING: &str = "Recording";
    /// Everything issued is recorded.
    pub const ALL_RECORDED: &str = "AllRecorded";

    /// The event is over, and its coupons have left Redis.
    pub const RETIRED: &str = "Retired";

    // Balanced: this one, or DriftFound

    /// Every coupon is accounted for.
    pub const COUNTS_MATCH: &str = "CountsMatch";

    // Durable: these, or BackendUnavailable

    /// Redis has on its disk what users were told.
    pub const WRITES_SYNCED: &str = "WritesSynced";
    /// A crash can lose some of it.
    pub const WRITES_MAY_BE_LOST: &str = "WritesMayBeLost";
    /// Redis does not say.
    pub const SETTINGS_UNAVAILABLE: &str = "SettingsUnavailable";

    // Scaled

    /// It is not time yet to start more issuers.
    pub const SCALING_SCHEDULED: &str = "ScalingScheduled";
    /// More issuers are starting.
    pub const ISSUERS_STARTING: &str = "IssuersStarting";
    /// As many issuers are ready as the event asks for.
    pub const ISSUERS_READY: &str = "IssuersReady";
    /// A quota of the namespace has no room for more issuers.
    pub const QUOTA_EXCEEDED: &str = "QuotaExceeded";
    /// The cluster refuses to make more pods, for another reason than a quota.
    pub const PODS_REFUSED: &str = "PodsRefused";
    /// No node has room for more issuers.
    pub const PODS_PENDING: &str = "PodsPending";
    /// Issuers were placed on a node and do not come up.
    pub const PODS_FAILING: &str = "PodsFailing";
    /// The event is over, and no longer asks for issuers.
    pub const SCALED_DOWN: &str = "ScaledDown";
    /// The operator cannot scale the issuers.
    pub const SCALING_FAILED: &str = "ScalingFailed";
    /// This operator was not told which issuers to scale.
    pub const SCALING_OFF: &str = "ScalingOff";

    // Stalled

    /// Nothing stands in the way.
    pub const NOT_STALLED: &str = "NotStalled";
    /// Redis, Postgres or Kafka does not answer.
    pub const BACKEND_UNAVAILABLE: &str = "BackendUnavailable";
    /// Redis has restarted, failed over or lost its data: nobody gets a coupon before it is known to be whole, or restored.
    pub const REDIS_CHANGED: &str = "RedisChanged";
    /// Redis and Postgres do not hold the same stock.
    pub const DRIFT_FOUND: &str = "DriftFound";
    /// The manifest was changed in a way that can no longer be followed.
    pub const CHANGE_NOT_POSSIBLE: &str = "ChangeNotPossible";
    /// The object cannot be read: it was stored under another definition.
    pub const INVALID_OBJECT: &str = "InvalidObject";
    /// The preload failed for a reason that trying again will not cure.
    pub const PRELOAD_FAILED: &str = "PreloadFailed";
    /// Another event of the same name holds the keys in Redis.
    pub const NAME_CONFLICT: &str = "NameConflict";
    /// The event is being deleted.
    pub const DELETING: &str = "Deleting";
}
