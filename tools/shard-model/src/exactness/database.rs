//! Kafka and Postgres: they keep what they confirmed.

use std::collections::{BTreeMap, BTreeSet};

use super::shard::{Coupon, Holding, Record, Restored, ShardId, Time, Transfer, User, Words, last};

#[derive(Default)]
pub(super) struct Database {
    pub(super) shards: usize,
    /// How many coupons exist. Coupon n is dealt to shard n mod shards.
    pub(super) stock: usize,
    /// Whose each coupon is, as of the last recovery.
    owner: BTreeMap<Coupon, ShardId>,
    pub(super) recorded: BTreeMap<User, Record>,
    pub(super) holder: BTreeMap<Coupon, User>,
    /// Who can never have this coupon.
    pub(super) refused: BTreeSet<(User, Coupon)>,
    /// What a shard issued before this is recorded no more.
    pub(super) sealed: BTreeMap<ShardId, Time>,
    /// The number of the last recovery that began.
    pub(super) attempt: u64,
    /// The topic.
    pub(super) topic: Vec<Record>,
    /// How far the consumers are.
    pub(super) offset: usize,
}

/// What became of a record.
pub(super) enum Recording {
    Recorded,
    TooLate,
    Refused,
}

impl Database {
    pub(super) fn new(shards: usize, stock: usize) -> Self {
        // The shards begin in the first epoch.
        Self { shards, stock, attempt: 1, ..Self::default() }
    }

    pub(super) fn dealt_to(&self, coupon: Coupon) -> ShardId {
        coupon % self.shards
    }

    /// The coupons that are dealt to `shard`, from the one with this index on.
    pub(super) fn dealt(&self, shard: ShardId, from: usize) -> Vec<Coupon> {
        (shard + from * self.shards..self.stock).step_by(self.shards).collect()
    }

    pub(super) fn record(&mut self, record: Record, is_refused: bool) -> Result<Recording, String> {
        let Record { user, coupon, issued_at } = record;
        let shard = user % self.shards;
        if self.recorded.get(&user).is_some_and(|earlier| earlier.coupon == coupon) {
            return Ok(Recording::Recorded);
        }
        if self.sealed.get(&shard).is_some_and(|sealed| issued_at < *sealed) {
            return Ok(Recording::TooLate);
        }
        if is_refused || self.refused.contains(&(user, coupon)) {
            self.refused.insert((user, coupon));
            return Ok(Recording::Refused);
        }
        if let Some(other) = self.holder.get(&coupon) {
            return Err(format!("coupon {coupon} is given to user {user} and was to user {other}"));
        }
        if let Some(other) = self.recorded.get(&user) {
            return Err(format!("user {user} is given coupon {coupon} and has coupon {}", other.coupon));
        }
        self.recorded.insert(user, record);
        self.holder.insert(coupon, user);
        Ok(Recording::Recorded)
    }

    /// Writes down whose each coupon is, from what the whole shards say. What is none of theirs is of the `lost` ones.
    pub(super) fn note_owners(&mut self, words: &BTreeMap<ShardId, Words>, lost: &BTreeMap<ShardId, u64>) {
        let (mut here, mut gone, mut sent) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        for (&shard, said) in words {
            for (&coupon, &is_here) in &said.moved {
                if is_here {
                    here.insert(coupon, shard);
                } else {
                    gone.insert((coupon, shard));
                }
            }
            for transfer in &said.pending {
                if comes_back(transfer, words) {
                    here.extend(transfer.coupons.iter().map(|&coupon| (coupon, shard)));
                } else if lost.contains_key(&transfer.taker) {
                    sent.extend(transfer.coupons.iter().map(|&coupon| (coupon, transfer.taker)));
                }
            }
        }
        let Some((&first_lost, _)) = lost.first_key_value() else { return };
        for coupon in 0..self.stock {
            let before = self.owner_of(coupon);
            let is_known = words.contains_key(&before) && !gone.contains(&(coupon, before));
            let owner = match (here.get(&coupon), sent.get(&coupon)) {
                (Some(&shard), _) => shard,
                (None, _) if is_known || lost.contains_key(&before) => before,
                (None, Some(&taker)) => taker,
                (None, None) => first_lost,
            };
            self.owner.insert(coupon, owner);
        }
    }

    fn owner_of(&self, coupon: Coupon) -> ShardId {
        self.owner.get(&coupon).copied().unwrap_or_else(|| self.dealt_to(coupon))
    }

    /// What belongs into `shard`.
    pub(super) fn restored(&self, shard: ShardId, by_deal_alone: bool) -> Restored {
        let is_its = |coupon: &Coupon| {
            let owner = if by_deal_alone { self.dealt_to(*coupon) } else { self.owner_of(*coupon) };
            owner == shard && !self.holder.contains_key(coupon)
        };
        let held = self.recorded.values().filter(|record| record.user % self.shards == shard);
        let issued = held
            .map(|record| {
                let holding = Holding { coupon: record.coupon, issued_at: record.issued_at, is_recorded: true };
                (record.user, holding)
            })
            .collect();
        Restored { queue: (0..self.stock).filter(is_its).collect(), issued, loaded: self.dealt(shard, 0).len() }
    }
}

/// Whether a transfer of an older epoch did not arrive, and never will. A shard that was lost is taken to have got it.
pub(super) fn comes_back(transfer: &Transfer, words: &BTreeMap<ShardId, Words>) -> bool {
    let Some(taker) = words.get(&transfer.taker) else { return false };
    last(&taker.taken, transfer.giver, transfer.epoch) < transfer.number
}
