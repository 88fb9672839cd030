//! The comparison without I/O: receives the data of the stores, and keeps what does not match.
//!
//! Data must be added in this order: the generated coupons, [`Comparison::finish_generated`], the recorded issuances,
//! the voids, [`Comparison::finish_recorded`], the records in Kafka, [`Comparison::finish_sent`], the available
//! coupons, the issued coupons in Redis.

use std::collections::{HashMap, HashSet};

use couponry_domain::{Discount, IssuedCoupon, PseudonymKey, UserId, code::CouponCode};
use couponry_redis::{IssuedStatus, UndecodableValue};

use crate::{
    discrepancy::{Discrepancy, Place},
    fingerprint_set::FingerprintSet,
    report::{Counts, Discrepancies},
};

/// How many suspects of a kind are kept.
pub(crate) const MAX_SUSPECTS: usize = 200_000;

// Marks of generated coupons.
const AVAILABLE: u8 = 1;
const ISSUED: u8 = 2;
const CANCELLED: u8 = 4;
// Marks of recorded issuances.
const IN_KAFKA: u8 = 1;
const IN_REDIS: u8 = 2;

/// The data of an event in all stores.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    generated: FingerprintSet,
    recorded: FingerprintSet,
    /// The users and coupons of voids in Postgres.
    voided: FingerprintSet,
    undecodable: HashSet<UndecodableValue>,
    /// Set if users of the event were erased: records in Kafka still name them.
    pub(crate) pseudonym_key: Option<PseudonymKey>,
    pub(crate) counts: Counts,
    /// Certain discrepancies.
    pub(crate) discrepancies: Discrepancies,
    /// What has to be checked again.
    pub(crate) suspects: Suspects,
}

/// Entries that did not match when they were first read: they may have been in flight.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    /// Issued in Redis, but was not recorded.
    pub(crate) unrecorded: HashMap<UserId, (IssuedCoupon, IssuedStatus)>,
    /// Recorded, but was PENDING in Redis.
    pub(crate) pending: HashMap<UserId, IssuedCoupon>,
    /// In Kafka, but was not recorded.
    pub(crate) only_in_kafka: HashSet<IssuedCoupon>,
    /// Recorded, and was voided in only one of Redis and Postgres.
    pub(crate) voided_in_one: HashMap<UserId, CouponCode>,
    /// Coupons that may have more than one holder in Redis.
    pub(crate) issued_twice: HashSet<CouponCode>,
    /// Coupons that were available when the queue was read, and issued later.
    pub(crate) available_and_issued: HashMap<CouponCode, Discount>,
    /// Coupons that were visited twice in the queue.
    pub(crate) available_twice: HashMap<CouponCode, Discount>,
    /// Coupons that were not generated when the stock was read.
    pub(crate) not_generated: HashSet<(CouponCode, Discount, Place)>,
    /// How many suspects were not kept.
    pub(crate) unchecked: u64,
}

impl Suspects {
    fn keep(&mut self, size: usize, keep: impl FnOnce(&mut Self)) {
        if size < MAX_SUSPECTS { keep(self) } else { self.unchecked += 1 }
    }
}

impl Comparison {
    /// Adds a coupon of the stock in Postgres.
    pub(crate) fn add_generated(&mut self, coupon: &CouponCode, discount: Discount) {
        self.generated.add(&(coupon, discount));
    }

    /// Called after the last generated coupon.
    pub(crate) fn finish_generated(&mut self) {
        self.generated.finish();
        self.counts.generated = self.generated.added();
    }

    /// Adds an issuance in Postgres.
    pub(crate) fn add_recorded(&mut self, issued: &IssuedCoupon) {
        self.check_generated(&issued.coupon, issued.discount, Place::Postgres);
        self.recorded.add(issued);
    }

    /// Adds a void in Postgres.
    pub(crate) fn add_voided(&mut self, user: &UserId, coupon: &CouponCode) {
        self.voided.add(&(user, coupon));
    }

    /// Called after the last recorded issuance and the last void.
    pub(crate) fn finish_recorded(&mut self) {
        self.voided.finish();
        self.recorded.finish();
        self.counts.recorded = self.recorded.added();
    }

    /// Adds a record in Kafka.
    pub(crate) fn add_sent(&mut self, issued: IssuedCoupon) {
        self.check_generated(&issued.coupon, issued.discount, Place::Kafka);
        let issued = self.under_pseudonym(issued);
        match self.recorded.mark(&issued, IN_KAFKA) {
            Some(before) if before & IN_KAFKA != 0 => self.counts.resent += 1,
            Some(_) => self.counts.sent += 1,
            None if self.suspects.only_in_kafka.contains(&issued) => self.counts.resent += 1,
            None => {
                self.counts.sent += 1;
                let size = self.suspects.only_in_kafka.len();
                self.suspects.keep(size, |suspects| {
                    suspects.only_in_kafka.insert(issued);
                });
            }
        }
    }

    /// The issuance with the pseudonym of its user, if it is recorded so.
    fn under_pseudonym(&self, issued: IssuedCoupon) -> IssuedCoupon {
        let Some(key) = &self.pseudonym_key else { return issued };
        if self.recorded.marks(&issued).is_some() {
            return issued;
        }
        let erased = IssuedCoupon { user_id: key.pseudonym(&issued.user_id), ..issued.clone() };
        if self.recorded.marks(&erased).is_some() { erased } else { issued }
    }

    /// Adds a coupon of the queue in Redis.
    pub(crate) fn add_available(&mut self, coupon: CouponCode, discount: Discount) {
        self.check_generated(&coupon, discount, Place::Queue);
        match self.generated.mark(&(&coupon, discount), AVAILABLE) {
            Some(before) if before & AVAILABLE != 0 => {
                let size = self.suspects.available_twice.len();
                self.suspects.keep(size, |suspects| {
                    suspects.available_twice.insert(coupon, discount);
                });
            }
            _ => self.counts.available += 1,
        }
    }

    /// Adds an entry of `couponIssued` in Redis.
    pub(crate) fn add_issued(&mut self, issued: IssuedCoupon, status: IssuedStatus) {
        let IssuedCoupon { user_id: _, coupon, discount, issued_at: _ } = &issued;
        if status == IssuedStatus::Cancelled {
            self.generated.mark(&(coupon, *discount), CANCELLED);
            if self.recorded.mark(&issued, IN_REDIS).is_some() {
                self.discrepancies.add(Discrepancy::CancelledButRecorded(issued));
            }
            return;
        }
        self.check_generated(coupon, *discount, Place::Issued);
        let before = self.generated.mark(&(coupon, *discount), ISSUED).unwrap_or(0);
        let recorded = self.recorded.mark(&issued, IN_REDIS);
        let is_repeated = match recorded {
            Some(before) => before & IN_REDIS != 0,
            None => self.suspects.unrecorded.get(&issued.user_id).is_some_and(|(known, _)| *known == issued),
        };
        if is_repeated {
            // A scan may return an entry more than once.
            return;
        }
        self.counts.issued += 1;
        let suspects = &mut self.suspects;
        if before & ISSUED != 0 {
            let size = suspects.issued_twice.len();
            suspects.keep(size, |suspects| {
                suspects.issued_twice.insert(issued.coupon.clone());
            });
        }
        if before & AVAILABLE != 0 {
            let size = suspects.available_and_issued.len();
            suspects.keep(size, |suspects| {
                suspects.available_and_issued.insert(issued.coupon.clone(), issued.discount);
            });
        }
        let is_voided_in_postgres = self.voided.marks(&(&issued.user_id, &issued.coupon)).is_some();
        if recorded.is_some() && is_voided_in_postgres != (status == IssuedStatus::Voided) {
            let size = suspects.voided_in_one.len();
            suspects.keep(size, |suspects| {
                suspects.voided_in_one.insert(issued.user_id.clone(), issued.coupon.clone());
            });
        }
        match recorded {
            None => {
                let size = suspects.unrecorded.len();
                suspects.keep(size, |suspects| {
                    suspects.unrecorded.insert(issued.user_id.clone(), (issued, status));
                });
            }
            Some(_) if status == IssuedStatus::Pending => {
                let size = suspects.pending.len();
                suspects.keep(size, |suspects| {
                    suspects.pending.insert(issued.user_id.clone(), issued);
                });
            }
            Some(_) => {}
        }
    }

    /// Adds a value in Redis that cannot be decoded. A scan may return an entry more than once.
    pub(crate) fn add_undecodable(&mut self, value: UndecodableValue) {
        if self.undecodable.len() == MAX_SUSPECTS {
            self.suspects.unchecked += 1;
        } else if self.undecodable.insert(value.clone()) {
            self.discrepancies.add(Discrepancy::Undecodable(value));
        }
    }

    fn check_generated(&mut self, coupon: &CouponCode, discount: Discount, place: Place) {
        if self.generated.marks(&(coupon, discount)).is_none() {
            let size = self.suspects.not_generated.len();
            self.suspects.keep(size, |suspects| {
                suspects.not_generated.insert((coupon.clone(), discount, place));
            });
        }
    }

    /// Whether Redis has this recorded issuance. None: it was not recorded yet when Postgres was read.
    pub(crate) fn has_issued(&self, issued: &IssuedCoupon) -> Option<bool> {
        Some(self.recorded.marks(issued)? & IN_REDIS != 0)
    }

    /// Whether Redis has all recorded issuances.
    pub(crate) fn has_issued_all(&self) -> bool {
        self.recorded.count(IN_REDIS, 0) == 0
    }

    /// Called after the last record in Kafka.
    pub(crate) fn finish_sent(&mut self) {
        self.counts.not_in_kafka = self.recorded.count(IN_KAFKA, 0);
    }

    /// Whether this coupon is in Redis. None: it was not generated yet when the stock was read.
    pub(crate) fn is_in_redis(&self, coupon: &CouponCode, discount: Discount) -> Option<bool> {
        self.generated.marks(&(coupon, discount)).map(|marks| marks & (AVAILABLE | ISSUED | CANCELLED) != 0)
    }

    /// Whether all generated coupons are in Redis.
    pub(crate) fn all_generated_are_in_redis(&self) -> bool {
        self.generated.count(AVAILABLE | ISSUED | CANCELLED, 0) == 0
    }

    /// How many coupons have a cancelled entry, and are neither available nor issued.
    pub(crate) fn only_cancelled(&self) -> u64 {
        self.generated.count(AVAILABLE | ISSUED | CANCELLED, CANCELLED)
    }
}
