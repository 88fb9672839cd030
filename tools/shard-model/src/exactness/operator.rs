//! State of an operator while it recovers shards that lost data (ADR 0015, for some of many shards). The steps are in
//! `recovery.rs`.

use std::collections::BTreeMap;

use super::shard::{FrozenState, ShardId};

#[derive(Default)]
pub(super) struct Operator(pub(super) Option<Recovery>);

pub(super) struct Recovery {
    pub(super) id: u64,
    /// The unverified shards, with their replication ids.
    pub(super) unverified: BTreeMap<ShardId, u64>,
    pub(super) frozen: BTreeMap<ShardId, FrozenState>,
    pub(super) stage: Stage,
}

pub(super) enum Stage {
    /// Writes the recovery id to each unverified shard; calls of earlier recoveries are stale from then on. The
    /// number counts the shards already done, as in the stages below.
    BeginRecovery(usize),
    /// Waits until the outboxes are empty.
    Drain,
    /// Waits until the consumers have read the topic up to this offset.
    AwaitConsumers {
        end: usize,
    },
    SetCutoffs,
    Freeze,
    RecordOwners,
    Resolve(usize),
    Unfreeze(usize),
    Restore(usize),
    MarkVerified(usize),
}
