//! Kafka and Postgres. Both are modelled as durable: what they acknowledged is never lost.

use std::collections::{BTreeMap, BTreeSet};

use super::shard::{Coupon, FrozenState, Issuance, Record, RestoredState, ShardId, Time, Transfer, User, last};

#[derive(Default)]
pub(super) struct Database {
    pub(super) shards: usize,
    /// Number of generated coupons. Coupon n is assigned to shard n mod shards.
    pub(super) stock: usize,
    /// The owning shard of each coupon, as decided by the last recovery.
    owner: BTreeMap<Coupon, ShardId>,
    pub(super) recorded: BTreeMap<User, Record>,
    pub(super) holder: BTreeMap<Coupon, User>,
    /// Issuances that were rejected for good.
    pub(super) rejected: BTreeSet<(User, Coupon)>,
    /// Issuances of a shard before this time are rejected.
    pub(super) record_cutoffs: BTreeMap<ShardId, Time>,
    /// Id of the last recovery that was started.
    pub(super) recovery_id: u64,
    /// All records of the topic, in order.
    pub(super) topic: Vec<Record>,
    /// Committed offset of the consumers.
    pub(super) offset: usize,
}

/// Result of recording one issuance.
pub(super) enum RecordResult {
    Recorded,
    BeforeCutoff,
    Rejected,
}

impl Database {
    pub(super) fn new(shards: usize, stock: usize) -> Self {
        // Shards start in epoch 1.
        Self { shards, stock, recovery_id: 1, ..Self::default() }
    }

    pub(super) fn assigned_shard(&self, coupon: Coupon) -> ShardId {
        coupon % self.shards
    }

    /// The coupons assigned to `shard`, starting at index `from`.
    pub(super) fn assigned_coupons(&self, shard: ShardId, from: usize) -> Vec<Coupon> {
        (shard + from * self.shards..self.stock).step_by(self.shards).collect()
    }

    pub(super) fn record(&mut self, record: Record, is_rejected: bool) -> Result<RecordResult, String> {
        let Record { user, coupon, issued_at } = record;
        let shard = user % self.shards;
        if self.recorded.get(&user).is_some_and(|earlier| earlier.coupon == coupon) {
            return Ok(RecordResult::Recorded);
        }
        if self.record_cutoffs.get(&shard).is_some_and(|cutoff| issued_at < *cutoff) {
            return Ok(RecordResult::BeforeCutoff);
        }
        if is_rejected || self.rejected.contains(&(user, coupon)) {
            self.rejected.insert((user, coupon));
            return Ok(RecordResult::Rejected);
        }
        if let Some(other) = self.holder.get(&coupon) {
            return Err(format!("coupon {coupon} is recorded for users {other} and {user}"));
        }
        if let Some(other) = self.recorded.get(&user) {
            return Err(format!("user {user} has coupons {coupon} and {}", other.coupon));
        }
        self.recorded.insert(user, record);
        self.holder.insert(coupon, user);
        Ok(RecordResult::Recorded)
    }

    /// Decides the owner of each coupon from the state of the verified shards. A coupon which no verified shard owns
    /// belongs to an unverified one.
    pub(super) fn record_owners(
        &mut self,
        frozen: &BTreeMap<ShardId, FrozenState>,
        unverified: &BTreeMap<ShardId, u64>,
    ) {
        let (mut here, mut gone, mut sent) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        for (&shard, state) in frozen {
            for (&coupon, &is_here) in &state.moved {
                if is_here {
                    here.insert(coupon, shard);
                } else {
                    gone.insert((coupon, shard));
                }
            }
            for transfer in &state.in_transit {
                if is_returned(transfer, frozen) {
                    here.extend(transfer.coupons.iter().map(|&coupon| (coupon, shard)));
                } else if unverified.contains_key(&transfer.target) {
                    sent.extend(transfer.coupons.iter().map(|&coupon| (coupon, transfer.target)));
                }
            }
        }
        let Some((&first_unverified, _)) = unverified.first_key_value() else { return };
        for coupon in 0..self.stock {
            let before = self.owner_of(coupon);
            let is_known = frozen.contains_key(&before) && !gone.contains(&(coupon, before));
            let owner = match (here.get(&coupon), sent.get(&coupon)) {
                (Some(&shard), _) => shard,
                (None, _) if is_known || unverified.contains_key(&before) => before,
                (None, Some(&target)) => target,
                (None, None) => first_unverified,
            };
            self.owner.insert(coupon, owner);
        }
    }

    fn owner_of(&self, coupon: Coupon) -> ShardId {
        self.owner.get(&coupon).copied().unwrap_or_else(|| self.assigned_shard(coupon))
    }

    /// The state which `shard` is restored to.
    pub(super) fn restored(&self, shard: ShardId, ignore_moves: bool) -> RestoredState {
        let belongs = |coupon: &Coupon| {
            let owner = if ignore_moves { self.assigned_shard(*coupon) } else { self.owner_of(*coupon) };
            owner == shard && !self.holder.contains_key(coupon)
        };
        let held = self.recorded.values().filter(|record| record.user % self.shards == shard);
        let issued = held
            .map(|record| {
                let issuance = Issuance { coupon: record.coupon, issued_at: record.issued_at, is_recorded: true };
                (record.user, issuance)
            })
            .collect();
        RestoredState {
            queue: (0..self.stock).filter(belongs).collect(),
            issued,
            loaded: self.assigned_coupons(shard, 0).len(),
        }
    }
}

/// Whether the coupons of a transfer from an older epoch go back to the source: the target is verified and did not
/// receive them. An unverified target counts as having received them.
pub(super) fn is_returned(transfer: &Transfer, frozen: &BTreeMap<ShardId, FrozenState>) -> bool {
    let Some(target) = frozen.get(&transfer.target) else { return false };
    last(&target.received, transfer.source, transfer.epoch) < transfer.number
}
