//! The Redis data of one shard. Each method is one atomic script.

use std::collections::{BTreeMap, VecDeque};

use super::Flaw;

pub(super) type ShardId = usize;
pub(super) type Coupon = usize;
pub(super) type User = usize;
/// Steps since the start of the run.
pub(super) type Time = u64;

/// The Kafka record of one issuance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) user: User,
    pub(super) coupon: Coupon,
    pub(super) issued_at: Time,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Issuance {
    pub(super) coupon: Coupon,
    pub(super) issued_at: Time,
    pub(super) is_recorded: bool,
}

/// Coupons in transit. Identified by epoch, source, target and number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transfer {
    pub(super) source: ShardId,
    pub(super) target: ShardId,
    pub(super) epoch: u64,
    pub(super) number: u64,
    pub(super) coupons: Vec<Coupon>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum IssueOutcome {
    Issued(Issuance),
    Duplicate(Issuance),
    SoldOut,
    /// The shard is empty; other shards may have coupons.
    Wait,
}

pub(super) struct IssueResult {
    pub(super) outcomes: Vec<(User, IssueOutcome)>,
    /// The id of the outbox entry.
    pub(super) entry: Option<u64>,
}

/// The fields of a shard which the mover reads.
#[derive(Clone, Debug)]
pub(super) struct Observation {
    pub(super) replication_id: u64,
    pub(super) epoch: u64,
    /// Number of times stock arrived. If it is equal in two observations, none arrived in between.
    pub(super) arrivals: u64,
    pub(super) queued: usize,
    pub(super) has_waiting_users: bool,
    pub(super) in_transit: Vec<Transfer>,
    pub(super) now: Time,
}

/// The fields of a verified shard which the recovery of other shards reads.
#[derive(Clone, Debug)]
pub(super) struct FrozenState {
    /// For each coupon that was ever moved: whether this shard owns it now.
    pub(super) moved: BTreeMap<Coupon, bool>,
    pub(super) in_transit: Vec<Transfer>,
    /// The epoch and number of the last transfer received from each shard.
    pub(super) received: BTreeMap<ShardId, (u64, u64)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Shard {
    pub(super) id: ShardId,
    /// Changes with each restart of Redis.
    pub(super) replication_id: u64,
    /// The replication id under which the data was last verified.
    pub(super) verified_replication_id: u64,
    pub(super) recovery_id: u64,
    pub(super) epoch: u64,
    is_frozen: bool,
    pub(super) queue: VecDeque<Coupon>,
    pub(super) issued: BTreeMap<User, Issuance>,
    pub(super) outbox: BTreeMap<u64, Vec<Record>>,
    pub(super) in_transit: BTreeMap<ShardId, Transfer>,
    sent: BTreeMap<ShardId, (u64, u64)>,
    pub(super) received: BTreeMap<ShardId, (u64, u64)>,
    moved: BTreeMap<Coupon, bool>,
    /// How many of its assigned coupons are loaded.
    pub(super) loaded: usize,
    arrivals: u64,
    min_issued_at: Time,
    sold_out_until: Time,
    has_waiting_users: bool,
}

impl Shard {
    pub(super) fn new(id: ShardId, replication_id: u64) -> Self {
        Self { id, replication_id, verified_replication_id: replication_id, epoch: 1, ..Self::default() }
    }

    pub(super) fn is_verified(&self) -> bool {
        self.verified_replication_id == self.replication_id
    }

    pub(super) fn issue(&mut self, users: &[User], now: Time, next_entry: &mut u64) -> Option<IssueResult> {
        if !self.is_verified() {
            return None;
        }
        let issued_at = now.max(self.min_issued_at);
        let (mut outcomes, mut records) = (Vec::new(), Vec::new());
        for &user in users {
            let outcome = if let Some(issuance) = self.issued.get(&user) {
                IssueOutcome::Duplicate(*issuance)
            } else if let Some(coupon) = self.queue.pop_front() {
                let issuance = Issuance { coupon, issued_at, is_recorded: false };
                self.issued.insert(user, issuance);
                records.push(Record { user, coupon, issued_at });
                IssueOutcome::Issued(issuance)
            } else if now < self.sold_out_until {
                IssueOutcome::SoldOut
            } else {
                self.has_waiting_users = true;
                IssueOutcome::Wait
            };
            outcomes.push((user, outcome));
        }
        let entry = (!records.is_empty()).then(|| {
            *next_entry += 1;
            self.outbox.insert(*next_entry, records);
            *next_entry
        });
        Some(IssueResult { outcomes, entry })
    }

    /// Moves coupons from the queue to a transit record. An existing transit record is returned instead.
    pub(super) fn send(&mut self, target: ShardId, epoch: u64, count: usize) -> Option<Transfer> {
        if !self.is_verified() || self.is_frozen || epoch != self.epoch {
            return None;
        }
        if let Some(in_transit) = self.in_transit.get(&target) {
            return Some(in_transit.clone());
        }
        let rest = self.queue.len() - count.min(self.queue.len());
        let coupons: Vec<Coupon> = self.queue.split_off(rest).into();
        if coupons.is_empty() {
            return None;
        }
        self.moved.extend(coupons.iter().map(|&coupon| (coupon, false)));
        let number = last(&self.sent, target, epoch) + 1;
        self.sent.insert(target, (epoch, number));
        let transfer = Transfer { source: self.id, target, epoch, number, coupons };
        self.in_transit.insert(target, transfer.clone());
        Some(transfer)
    }

    /// Whether the coupons are in this shard, from this call or an earlier one.
    pub(super) fn receive(&mut self, transfer: &Transfer, flaw: Flaw) -> bool {
        let Transfer { source, target: _, epoch, number, coupons } = transfer;
        if !self.is_verified() || (*epoch != self.epoch && flaw != Flaw::NoEpoch) {
            return false;
        }
        if *number <= last(&self.received, *source, *epoch) && flaw != Flaw::NoTransferNumber {
            return true;
        }
        self.received.insert(*source, (*epoch, *number));
        self.moved.extend(coupons.iter().map(|&coupon| (coupon, true)));
        self.queue.extend(coupons);
        self.stock_arrived();
        true
    }

    pub(super) fn delete_transit(&mut self, target: ShardId, epoch: u64, number: u64) {
        if self
            .in_transit
            .get(&target)
            .is_some_and(|in_transit| (in_transit.epoch, in_transit.number) == (epoch, number))
        {
            self.in_transit.remove(&target);
        }
    }

    pub(super) fn observe(&self, now: Time) -> Option<Observation> {
        self.is_verified().then(|| Observation {
            replication_id: self.replication_id,
            epoch: self.epoch,
            arrivals: self.arrivals,
            queued: self.queue.len(),
            has_waiting_users: self.has_waiting_users,
            in_transit: self.in_transit.values().cloned().collect(),
            now,
        })
    }

    /// Allows `SOLD_OUT` until this time, by the shard's own clock.
    pub(super) fn allow_sold_out(&mut self, replication_id: u64, until: Time) {
        if self.is_verified() && self.replication_id == replication_id {
            self.sold_out_until = self.sold_out_until.max(until);
            self.has_waiting_users = false;
        }
    }

    /// Marks an issuance as recorded, or returns its coupon to the queue if it was rejected.
    pub(super) fn settle(&mut self, user: User, coupon: Coupon, is_recorded: bool) {
        let unrecorded = |issuance: &&mut Issuance| issuance.coupon == coupon && !issuance.is_recorded;
        let Some(issuance) = self.issued.get_mut(&user).filter(unrecorded) else { return };
        if is_recorded {
            issuance.is_recorded = true;
        } else {
            self.issued.remove(&user);
            self.queue.push_back(coupon);
            self.stock_arrived();
        }
    }

    pub(super) fn load(&mut self, first: usize, coupons: &[Coupon]) {
        if self.is_verified() && self.loaded == first {
            self.loaded += coupons.len();
            self.queue.extend(coupons);
            self.stock_arrived();
        }
    }

    /// Stops transfers and starts a new epoch: transfers of older epochs are no longer received.
    pub(super) fn freeze(&mut self, epoch: u64) -> Option<FrozenState> {
        let is_new = epoch > self.epoch || (self.is_frozen && epoch == self.epoch);
        if !self.is_verified() || !is_new {
            return None;
        }
        (self.is_frozen, self.epoch) = (true, epoch);
        let in_transit = self.in_transit.values().cloned().collect();
        Some(FrozenState { moved: self.moved.clone(), in_transit, received: self.received.clone() })
    }

    /// Ends transfers of an older epoch: the coupons go back to this shard, or belong to the target.
    pub(super) fn resolve(&mut self, epoch: u64, resolutions: &[(Transfer, bool)]) -> bool {
        if !self.is_verified() || !self.is_frozen || self.epoch != epoch {
            return false;
        }
        for (transfer, is_returned) in resolutions {
            if self.in_transit.get(&transfer.target) != Some(transfer) {
                continue;
            }
            self.in_transit.remove(&transfer.target);
            if *is_returned {
                self.moved.extend(transfer.coupons.iter().map(|&coupon| (coupon, true)));
                self.queue.extend(&transfer.coupons);
                self.stock_arrived();
            }
        }
        true
    }

    pub(super) fn unfreeze(&mut self, epoch: u64) -> bool {
        let is_current = self.is_verified() && self.epoch == epoch;
        if is_current {
            self.is_frozen = false;
        }
        is_current
    }

    /// Starts a recovery. Calls of earlier recoveries are stale from then on.
    pub(super) fn begin_recovery(&mut self, replication_id: u64, recovery_id: u64) -> bool {
        let is_current =
            !self.is_verified() && self.replication_id == replication_id && recovery_id >= self.recovery_id;
        if is_current {
            self.recovery_id = recovery_id;
        }
        is_current
    }

    /// Replaces all data with the state from Postgres.
    pub(super) fn restore(&mut self, replication_id: u64, recovery_id: u64, state: &RestoredState) -> bool {
        if self.is_verified() || self.replication_id != replication_id || recovery_id != self.recovery_id {
            return false;
        }
        let RestoredState { queue, issued, loaded } = state.clone();
        *self =
            Self { id: self.id, replication_id, recovery_id, queue: queue.into(), issued, loaded, ..Self::default() };
        true
    }

    pub(super) fn mark_verified(&mut self, replication_id: u64, recovery_id: u64, min_issued_at: Time) -> bool {
        let is_current =
            !self.is_verified() && self.replication_id == replication_id && self.recovery_id == recovery_id;
        if is_current {
            (self.verified_replication_id, self.epoch, self.min_issued_at) =
                (replication_id, recovery_id, min_issued_at);
        }
        is_current
    }

    /// Whether the transfer was received.
    pub(super) fn has_received(&self, transfer: &Transfer) -> bool {
        last(&self.received, transfer.source, transfer.epoch) >= transfer.number
    }

    fn stock_arrived(&mut self) {
        self.arrivals += 1;
        (self.has_waiting_users, self.sold_out_until) = (false, 0);
    }
}

/// The data a shard is restored to.
#[derive(Clone, Debug)]
pub(super) struct RestoredState {
    pub(super) queue: Vec<Coupon>,
    pub(super) issued: BTreeMap<User, Issuance>,
    pub(super) loaded: usize,
}

/// The number of the last transfer with `shard` in this epoch.
pub(super) fn last(numbers: &BTreeMap<ShardId, (u64, u64)>, shard: ShardId, epoch: u64) -> u64 {
    numbers.get(&shard).filter(|(of, _)| *of == epoch).map_or(0, |(_, number)| *number)
}
