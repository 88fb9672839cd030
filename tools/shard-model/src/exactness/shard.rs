//! One shard: what its Redis holds of the event. Each method is one atomic script.

use std::collections::{BTreeMap, VecDeque};

use super::Flaw;

pub(super) type ShardId = usize;
pub(super) type Coupon = usize;
pub(super) type User = usize;
/// Steps since the beginning of the run.
pub(super) type Time = u64;

/// What Kafka is told of one coupon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) user: User,
    pub(super) coupon: Coupon,
    pub(super) issued_at: Time,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Holding {
    pub(super) coupon: Coupon,
    pub(super) issued_at: Time,
    pub(super) is_recorded: bool,
}

/// Coupons on their way. Epoch, giver, taker and number make it unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transfer {
    pub(super) giver: ShardId,
    pub(super) taker: ShardId,
    pub(super) epoch: u64,
    pub(super) number: u64,
    pub(super) coupons: Vec<Coupon>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    Issued(Holding),
    Duplicate(Holding),
    SoldOut,
    /// The shard is dry, and it is not known whether another one has something.
    Wait,
}

pub(super) struct Issued {
    pub(super) outcomes: Vec<(User, Outcome)>,
    /// The entry of the outbox.
    pub(super) entry: Option<u64>,
}

/// What a mover sees of a shard.
#[derive(Clone, Debug)]
pub(super) struct Glance {
    pub(super) server: u64,
    pub(super) epoch: u64,
    /// How often stock came in. The same twice: none came in between.
    pub(super) arrivals: u64,
    pub(super) queued: usize,
    pub(super) is_wanted: bool,
    pub(super) pending: Vec<Transfer>,
    pub(super) now: Time,
}

/// What a shard that is known to be whole says in a recovery of others.
#[derive(Clone, Debug)]
pub(super) struct Words {
    /// For coupons that were moved: whether they are this shard's.
    pub(super) moved: BTreeMap<Coupon, bool>,
    pub(super) pending: Vec<Transfer>,
    /// The last transfer from each shard, with its epoch.
    pub(super) taken: BTreeMap<ShardId, (u64, u64)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Shard {
    pub(super) id: ShardId,
    /// Which Redis this is. Another one after each restart.
    pub(super) server: u64,
    /// The Redis that is known to be whole.
    pub(super) adopted: u64,
    pub(super) token: u64,
    pub(super) epoch: u64,
    is_frozen: bool,
    pub(super) queue: VecDeque<Coupon>,
    pub(super) issued: BTreeMap<User, Holding>,
    pub(super) outbox: BTreeMap<u64, Vec<Record>>,
    pub(super) pending: BTreeMap<ShardId, Transfer>,
    sent: BTreeMap<ShardId, (u64, u64)>,
    pub(super) taken: BTreeMap<ShardId, (u64, u64)>,
    moved: BTreeMap<Coupon, bool>,
    /// How many of the coupons that were dealt to it are loaded.
    pub(super) loaded: usize,
    arrivals: u64,
    since: Time,
    sold_out_until: Time,
    is_wanted: bool,
}

impl Shard {
    pub(super) fn new(id: ShardId, server: u64) -> Self {
        Self { id, server, adopted: server, epoch: 1, ..Self::default() }
    }

    /// Whether it is known to be whole.
    pub(super) fn is_whole(&self) -> bool {
        self.adopted == self.server
    }

    pub(super) fn issue(&mut self, users: &[User], now: Time, next_entry: &mut u64) -> Option<Issued> {
        if !self.is_whole() {
            return None;
        }
        let issued_at = now.max(self.since);
        let (mut outcomes, mut records) = (Vec::new(), Vec::new());
        for &user in users {
            let outcome = if let Some(holding) = self.issued.get(&user) {
                Outcome::Duplicate(*holding)
            } else if let Some(coupon) = self.queue.pop_front() {
                let holding = Holding { coupon, issued_at, is_recorded: false };
                self.issued.insert(user, holding);
                records.push(Record { user, coupon, issued_at });
                Outcome::Issued(holding)
            } else if now < self.sold_out_until {
                Outcome::SoldOut
            } else {
                self.is_wanted = true;
                Outcome::Wait
            };
            outcomes.push((user, outcome));
        }
        let entry = (!records.is_empty()).then(|| {
            *next_entry += 1;
            self.outbox.insert(*next_entry, records);
            *next_entry
        });
        Some(Issued { outcomes, entry })
    }

    /// Puts coupons into a transit record. What is in one already goes first.
    pub(super) fn give(&mut self, taker: ShardId, epoch: u64, count: usize) -> Option<Transfer> {
        if !self.is_whole() || self.is_frozen || epoch != self.epoch {
            return None;
        }
        if let Some(pending) = self.pending.get(&taker) {
            return Some(pending.clone());
        }
        let rest = self.queue.len() - count.min(self.queue.len());
        let coupons: Vec<Coupon> = self.queue.split_off(rest).into();
        if coupons.is_empty() {
            return None;
        }
        self.moved.extend(coupons.iter().map(|&coupon| (coupon, false)));
        let number = last(&self.sent, taker, epoch) + 1;
        self.sent.insert(taker, (epoch, number));
        let transfer = Transfer { giver: self.id, taker, epoch, number, coupons };
        self.pending.insert(taker, transfer.clone());
        Some(transfer)
    }

    /// Whether the coupons are here now, or were before.
    pub(super) fn take(&mut self, transfer: &Transfer, flaw: Flaw) -> bool {
        let Transfer { giver, taker: _, epoch, number, coupons } = transfer;
        if !self.is_whole() || (*epoch != self.epoch && flaw != Flaw::NoEpoch) {
            return false;
        }
        if *number <= last(&self.taken, *giver, *epoch) && flaw != Flaw::NoNumber {
            return true;
        }
        self.taken.insert(*giver, (*epoch, *number));
        self.moved.extend(coupons.iter().map(|&coupon| (coupon, true)));
        self.queue.extend(coupons);
        self.stock_came();
        true
    }

    pub(super) fn forget(&mut self, taker: ShardId, epoch: u64, number: u64) {
        if self.pending.get(&taker).is_some_and(|pending| (pending.epoch, pending.number) == (epoch, number)) {
            self.pending.remove(&taker);
        }
    }

    pub(super) fn look(&self, now: Time) -> Option<Glance> {
        self.is_whole().then(|| Glance {
            server: self.server,
            epoch: self.epoch,
            arrivals: self.arrivals,
            queued: self.queue.len(),
            is_wanted: self.is_wanted,
            pending: self.pending.values().cloned().collect(),
            now,
        })
    }

    /// Allows to say `SOLD_OUT` until then, by this shard's clock.
    pub(super) fn mark(&mut self, server: u64, until: Time) {
        if self.is_whole() && self.server == server {
            self.sold_out_until = self.sold_out_until.max(until);
            self.is_wanted = false;
        }
    }

    /// Notes that a coupon is recorded, or puts it back when it never can be.
    pub(super) fn settle(&mut self, user: User, coupon: Coupon, is_recorded: bool) {
        let pending = |holding: &&mut Holding| holding.coupon == coupon && !holding.is_recorded;
        let Some(holding) = self.issued.get_mut(&user).filter(pending) else { return };
        if is_recorded {
            holding.is_recorded = true;
        } else {
            self.issued.remove(&user);
            self.queue.push_back(coupon);
            self.stock_came();
        }
    }

    pub(super) fn load(&mut self, first: usize, coupons: &[Coupon]) {
        if self.is_whole() && self.loaded == first {
            self.loaded += coupons.len();
            self.queue.extend(coupons);
            self.stock_came();
        }
    }

    /// Stops transfers, and begins another epoch: whatever is on its way from an older one comes too late.
    pub(super) fn freeze(&mut self, epoch: u64) -> Option<Words> {
        let is_new = epoch > self.epoch || (self.is_frozen && epoch == self.epoch);
        if !self.is_whole() || !is_new {
            return None;
        }
        (self.is_frozen, self.epoch) = (true, epoch);
        let pending = self.pending.values().cloned().collect();
        Some(Words { moved: self.moved.clone(), pending, taken: self.taken.clone() })
    }

    /// Ends transfers of an older epoch: the coupons come back, or are the taker's.
    pub(super) fn resolve(&mut self, epoch: u64, verdicts: &[(Transfer, bool)]) -> bool {
        if !self.is_whole() || !self.is_frozen || self.epoch != epoch {
            return false;
        }
        for (transfer, comes_back) in verdicts {
            if self.pending.get(&transfer.taker) != Some(transfer) {
                continue;
            }
            self.pending.remove(&transfer.taker);
            if *comes_back {
                self.moved.extend(transfer.coupons.iter().map(|&coupon| (coupon, true)));
                self.queue.extend(&transfer.coupons);
                self.stock_came();
            }
        }
        true
    }

    pub(super) fn thaw(&mut self, epoch: u64) -> bool {
        let is_meant = self.is_whole() && self.epoch == epoch;
        if is_meant {
            self.is_frozen = false;
        }
        is_meant
    }

    /// A recovery begins. What an earlier one sends has no effect any more.
    pub(super) fn begin(&mut self, server: u64, token: u64) -> bool {
        let is_meant = !self.is_whole() && self.server == server && token >= self.token;
        if is_meant {
            self.token = token;
        }
        is_meant
    }

    /// Makes it anew from what Postgres has.
    pub(super) fn restore(&mut self, server: u64, token: u64, anew: &Restored) -> bool {
        if self.is_whole() || self.server != server || token != self.token {
            return false;
        }
        let Restored { queue, issued, loaded } = anew.clone();
        *self = Self { id: self.id, server, token, queue: queue.into(), issued, loaded, ..Self::default() };
        true
    }

    pub(super) fn adopt(&mut self, server: u64, token: u64, since: Time) -> bool {
        let is_meant = !self.is_whole() && self.server == server && self.token == token;
        if is_meant {
            (self.adopted, self.epoch, self.since) = (server, token, since);
        }
        is_meant
    }

    /// Whether these coupons have come.
    pub(super) fn has_taken(&self, transfer: &Transfer) -> bool {
        last(&self.taken, transfer.giver, transfer.epoch) >= transfer.number
    }

    fn stock_came(&mut self) {
        self.arrivals += 1;
        (self.is_wanted, self.sold_out_until) = (false, 0);
    }
}

/// What a shard is restored to.
#[derive(Clone, Debug)]
pub(super) struct Restored {
    pub(super) queue: Vec<Coupon>,
    pub(super) issued: BTreeMap<User, Holding>,
    pub(super) loaded: usize,
}

/// The number of the last transfer with `shard` in this epoch.
pub(super) fn last(numbers: &BTreeMap<ShardId, (u64, u64)>, shard: ShardId, epoch: u64) -> u64 {
    numbers.get(&shard).filter(|(of, _)| *of == epoch).map_or(0, |(_, number)| *number)
}
