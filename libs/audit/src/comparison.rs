//! The comparison without I/O: takes in what the stores hold, thing by thing, and keeps what does not fit together.
//!
//! It is fed in this order: the stock, [`Comparison::stock_ends`], what is recorded, [`Comparison::record_ends`], what was sent,
//! the queue, what is issued.

use std::collections::{HashMap, HashSet};

use couponry_domain::{Discount, UserId, code::CouponCode};
use couponry_redis::Status;

use crate::{Counts, Difference, Differences, Held, Place, prints::Prints};

/// How many suspects of a kind are kept, to be looked at one by one.
pub(crate) const SUSPECTS: usize = 200_000;

// Marks of the stock.
const QUEUED: u8 = 1;
const HELD: u8 = 2;
const VOIDED: u8 = 4;
// Marks of what is recorded.
const IN_KAFKA: u8 = 1;
const IN_REDIS: u8 = 2;

/// What the stores hold of an event, as it is taken in.
#[derive(Debug, Default)]
pub struct Comparison {
    stock: Prints,
    recorded: Prints,
    /// What there is.
    pub counts: Counts,
    /// What is certainly wrong.
    pub differences: Differences,
    /// What is to be looked at again.
    pub suspects: Suspects,
}

/// What did not fit together at the first look.
#[derive(Debug, Default)]
pub struct Suspects {
    /// Redis says that the user holds this, Postgres did not.
    pub unrecorded: HashMap<UserId, (Held, Status)>,
    /// Postgres has it, Redis had it as PENDING.
    pub unsettled: HashMap<UserId, Held>,
    /// Kafka has it, Postgres did not.
    pub only_in_kafka: HashSet<Held>,
    /// Coupons that more than one user may hold in Redis.
    pub held_twice: HashSet<CouponCode>,
    /// Coupons that were available when the queue was read, and held later.
    pub queued_and_held: HashMap<CouponCode, Discount>,
    /// Coupons that were seen twice in the queue.
    pub queued_twice: HashMap<CouponCode, Discount>,
    /// What Postgres did not have in its stock when the stock was read.
    pub not_stocked: HashSet<(CouponCode, Discount, Place)>,
    /// How many more there were.
    pub unchecked: u64,
}

impl Suspects {
    fn keep(&mut self, size: usize, keep: impl FnOnce(&mut Self)) {
        if size < SUSPECTS { keep(self) } else { self.unchecked += 1 }
    }
}

impl Comparison {
    /// Postgres: a coupon of the stock.
    pub fn stocked(&mut self, coupon: &CouponCode, discount: Discount) {
        self.stock.add(&(coupon, discount));
    }

    /// Postgres: that was the stock.
    pub fn stock_ends(&mut self) {
        self.stock.close();
        self.counts.stocked = self.stock.len() + self.stock.repeated();
    }

    /// Postgres: who has which coupon.
    pub fn recorded(&mut self, held: &Held) {
        self.check_stocked(&held.coupon, held.discount, Place::Postgres);
        self.recorded.add(held);
    }

    /// Postgres: that was everything recorded.
    pub fn record_ends(&mut self) {
        self.recorded.close();
        self.counts.recorded = self.recorded.len() + self.recorded.repeated();
    }

    /// Kafka: a record of the event.
    pub fn sent(&mut self, held: Held) {
        self.check_stocked(&held.coupon, held.discount, Place::Kafka);
        match self.recorded.mark(&held, IN_KAFKA) {
            Some(before) if before & IN_KAFKA != 0 => self.counts.sent_again += 1,
            Some(_) => self.counts.sent += 1,
            None if self.suspects.only_in_kafka.contains(&held) => self.counts.sent_again += 1,
            None => {
                self.counts.sent += 1;
                let size = self.suspects.only_in_kafka.len();
                self.suspects.keep(size, |suspects| {
                    suspects.only_in_kafka.insert(held);
                });
            }
        }
    }

    /// Redis: a coupon that is left to give.
    pub fn available(&mut self, coupon: CouponCode, discount: Discount) {
        self.check_stocked(&coupon, discount, Place::Queue);
        match self.stock.mark(&(&coupon, discount), QUEUED) {
            Some(before) if before & QUEUED != 0 => {
                let size = self.suspects.queued_twice.len();
                self.suspects.keep(size, |suspects| {
                    suspects.queued_twice.insert(coupon, discount);
                });
            }
            _ => self.counts.available += 1,
        }
    }

    /// Redis: what a user holds or held. After the queue.
    pub fn issued(&mut self, held: Held, status: Status) {
        let Held { user: _, coupon, discount, issued_at: _ } = &held;
        if status == Status::Cancelled {
            self.stock.mark(&(coupon, *discount), VOIDED);
            self.counts.voided += 1;
            if self.recorded.mark(&held, IN_REDIS).is_some() {
                self.differences.add(Difference::CancelledButRecorded(held));
            }
            return;
        }
        self.check_stocked(coupon, *discount, Place::Redis);
        let before = self.stock.mark(&(coupon, *discount), HELD).unwrap_or(0);
        let recorded = self.recorded.mark(&held, IN_REDIS);
        let is_repeated = match recorded {
            Some(before) => before & IN_REDIS != 0,
            None => self.suspects.unrecorded.get(&held.user).is_some_and(|(known, _)| *known == held),
        };
        if is_repeated {
            // Redis may show an entry more than once.
            return;
        }
        self.counts.held += 1;
        let suspects = &mut self.suspects;
        if before & HELD != 0 {
            let size = suspects.held_twice.len();
            suspects.keep(size, |suspects| {
                suspects.held_twice.insert(held.coupon.clone());
            });
        }
        if before & QUEUED != 0 {
            let size = suspects.queued_and_held.len();
            suspects.keep(size, |suspects| {
                suspects.queued_and_held.insert(held.coupon.clone(), held.discount);
            });
        }
        match recorded {
            None => {
                let size = suspects.unrecorded.len();
                suspects.keep(size, |suspects| {
                    suspects.unrecorded.insert(held.user.clone(), (held, status));
                });
            }
            Some(_) if status == Status::Pending => {
                let size = suspects.unsettled.len();
                suspects.keep(size, |suspects| {
                    suspects.unsettled.insert(held.user.clone(), held);
                });
            }
            Some(_) => {}
        }
    }

    fn check_stocked(&mut self, coupon: &CouponCode, discount: Discount, place: Place) {
        if self.stock.marks(&(coupon, discount)).is_none() {
            let size = self.suspects.not_stocked.len();
            self.suspects.keep(size, |suspects| {
                suspects.not_stocked.insert((coupon.clone(), discount, place));
            });
        }
    }

    /// Whether what is recorded here is also in Redis, and in Kafka. None: it was not recorded yet when Postgres was read.
    #[must_use]
    pub fn is_in(&self, held: &Held) -> Option<(bool, bool)> {
        self.recorded.marks(held).map(|marks| (marks & IN_REDIS != 0, marks & IN_KAFKA != 0))
    }

    /// Whether everything recorded is also in Redis, and in Kafka.
    #[must_use]
    pub fn all_recorded_is_in(&self) -> (bool, bool) {
        (self.recorded.without(IN_REDIS) == 0, self.recorded.without(IN_KAFKA) == 0)
    }

    /// Whether this coupon is somewhere in Redis. None: it was not in the stock yet when the stock was read.
    #[must_use]
    pub fn is_accounted_for(&self, coupon: &CouponCode, discount: Discount) -> Option<bool> {
        self.stock.marks(&(coupon, discount)).map(|marks| marks & (QUEUED | HELD | VOIDED) != 0)
    }

    /// Whether every coupon of the stock is.
    #[must_use]
    pub fn all_is_accounted_for(&self) -> bool {
        self.stock.without(QUEUED | HELD | VOIDED) == 0
    }
}
