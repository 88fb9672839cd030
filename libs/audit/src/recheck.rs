//! Checks suspects again: a record may have been recorded in the meantime, or still be in flight.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use couponry_domain::{Coupon, Discount, EventName, IssuedCoupon, UserId, Uuid, code::CouponCode};
use couponry_redis::{IssuedEntry, IssuedStatus, RedisEvent};
use futures::TryStreamExt as _;
use tokio::time::{Instant, sleep};

use crate::{
    comparison::{Comparison, MAX_SUSPECTS},
    current_state::{Check, CurrentState},
    discrepancy::Discrepancy,
    error::AuditError,
    report::InFlight,
    stores::Stores,
};

/// A coupon that has been in flight for longer is reported as delayed, in milliseconds.
const MAX_TIME_IN_FLIGHT: i64 = 60_000;

/// Pause between two checks of the suspects.
const PAUSE: Duration = Duration::from_millis(500);

/// How many users or coupons are read at a time.
const PAGE: usize = 5000;

/// The data after the first read.
pub(crate) struct Recheck<'a> {
    pub(crate) stores: &'a Stores,
    pub(crate) name: &'a EventName,
    pub(crate) uid: Uuid,
    /// The event in Redis, as of before its coupons were read; None: Redis does not have it.
    pub(crate) observed: Option<RedisEvent>,
    /// The issued coupons of the dead letters.
    pub(crate) dead_letters: Vec<IssuedCoupon>,
    pub(crate) comparison: Comparison,
}

/// The outbox entries of this event, and the lag of the topic (of all events).
struct RecheckBacklog {
    outbox: u64,
    lag: u64,
    /// The clock of Redis; None: Redis does not have the event.
    now: Option<i64>,
}

impl RecheckBacklog {
    const fn is_empty(&self) -> bool {
        self.outbox == 0 && self.lag == 0
    }
}

/// Number of occurrences of coupons in the queue.
type QueueCounts = HashMap<CouponCode, (Discount, usize)>;

impl Recheck<'_> {
    pub(crate) async fn run(mut self, timeout: Duration) -> Result<(Comparison, InFlight), AuditError> {
        // Must run before the suspects are removed, because they contain the holders in Redis.
        self.check_recorded().await?;
        self.check_generated().await?;
        self.check_stock().await?;
        self.check_voided(timeout).await?;
        let in_flight = self.recheck_until_drained(timeout).await?;
        Ok((self.comparison, in_flight))
    }

    fn add(&mut self, discrepancy: Discrepancy) {
        self.comparison.discrepancies.add(discrepancy);
    }

    /// Checks recorded issuances that are not in Redis.
    async fn check_recorded(&mut self) -> Result<(), AuditError> {
        if self.observed.is_none() || self.comparison.has_issued_all() {
            return Ok(());
        }
        let stores = self.stores;
        let mut issuances = stores.database.stream_issuances(self.uid);
        let mut missing = Vec::new();
        while let Some(issuance) = issuances.try_next().await? {
            // None: it was recorded after Postgres was read.
            if self.comparison.has_issued(&issuance.issued) == Some(false) {
                missing.push(issuance.issued);
            }
            if missing.len() == PAGE {
                self.check_missing_in_redis(std::mem::take(&mut missing)).await?;
            }
        }
        self.check_missing_in_redis(missing).await
    }

    /// Checks recorded issuances that the scan of Redis has not returned.
    async fn check_missing_in_redis(&mut self, missing: Vec<IssuedCoupon>) -> Result<(), AuditError> {
        let users: Vec<UserId> = missing.iter().map(|issued| issued.user_id.clone()).collect();
        let entries = self.stores.redis_store.issued_to(self.name, &users).await?;
        let suspects = self.comparison.suspects.unrecorded.values();
        let issued_to_others: HashSet<&CouponCode> = suspects.map(|(issued, _)| &issued.coupon).collect();
        // A user with another coupon, or a coupon with another user, is checked as a suspect.
        let not_in_redis: Vec<IssuedCoupon> = missing
            .into_iter()
            .zip(entries)
            .filter(|(issued, entry)| entry.is_none() && !issued_to_others.contains(&issued.coupon))
            .map(|(issued, _)| issued)
            .collect();
        for issued in not_in_redis {
            self.add(Discrepancy::NotInRedis(issued));
        }
        Ok(())
    }

    /// Checks coupons that were not generated, or generated with another discount.
    async fn check_generated(&mut self) -> Result<(), AuditError> {
        let suspects: Vec<_> = self.comparison.suspects.not_generated.drain().collect();
        for page in suspects.chunks(PAGE) {
            let codes: Vec<CouponCode> = page.iter().map(|(coupon, ..)| coupon.clone()).collect();
            let coupons = self.stores.database.coupons_by_code(self.uid, &codes).await?;
            let generated: HashMap<&str, Discount> = coupons.iter().map(|c| (c.code.as_str(), c.discount)).collect();
            for (coupon, discount, place) in page {
                let (coupon, place, actual) = (coupon.clone(), *place, *discount);
                match generated.get(coupon.as_str()) {
                    // Generated since the stock was read.
                    Some(generated) if *generated == actual => {}
                    Some(generated) => {
                        self.add(Discrepancy::WrongDiscount { coupon, place, actual, generated: *generated });
                    }
                    None => self.add(Discrepancy::NotGenerated { coupon, place }),
                }
            }
        }
        Ok(())
    }

    /// Checks coupons that are in Redis twice or not at all. Reads the queue once for all of them.
    async fn check_stock(&mut self) -> Result<(), AuditError> {
        let suspects = &mut self.comparison.suspects;
        let available_twice = std::mem::take(&mut suspects.available_twice);
        let available_and_issued = std::mem::take(&mut suspects.available_and_issued);
        let mut issued: HashSet<CouponCode> = suspects.issued_twice.drain().collect();
        issued.extend(available_and_issued.keys().cloned());
        let holders = self.holders(&issued).await?;
        let mut missing = self.missing().await?;

        // Coupons that are added while the queue is read shift the others, and those are visited again.
        let loaded = if available_twice.is_empty() { None } else { Some(self.loaded().await?) };
        let is_twice: HashSet<CouponCode> = available_twice.keys().cloned().collect();
        let wanted = available_and_issued.into_iter().chain(available_twice).chain(missing.iter().cloned());
        let queue = self.count_in_queue(wanted).await?;
        let is_unchanged = match loaded {
            Some(loaded) => self.loaded().await? == loaded,
            None => true,
        };
        let times = |coupon: &CouponCode| queue.get(coupon).map_or(0, |(_, times)| *times);

        for (coupon, users) in holders {
            if times(&coupon) > 0
                && let Some(user) = users.first()
            {
                self.add(Discrepancy::AvailableAndIssued { coupon: coupon.clone(), user: user.clone() });
            }
            if users.len() > 1 {
                self.add(Discrepancy::IssuedTwice { coupon, users: users.into_iter().collect() });
            }
        }
        for coupon in is_twice.into_iter().filter(|coupon| times(coupon) > 1) {
            if is_unchanged {
                self.add(Discrepancy::AvailableTwice { coupon });
            } else {
                self.comparison.suspects.unchecked += 1;
            }
        }
        missing.retain(|(coupon, _)| times(coupon) == 0);
        // The entry of a withheld coupon is replaced when its user receives another one.
        let withheld = self.comparison.counts.withheld.saturating_sub(self.comparison.only_cancelled());
        if missing.len() as u64 > withheld {
            for (coupon, _) in missing {
                self.add(Discrepancy::Missing { coupon });
            }
        }
        Ok(())
    }

    /// Checks coupons that were voided in only one store, until the operator has applied the voids to Redis or the
    /// timeout has passed.
    async fn check_voided(&mut self, timeout: Duration) -> Result<(), AuditError> {
        let until = Instant::now() + timeout;
        let mut suspects: Vec<_> = self.comparison.suspects.voided_in_one.drain().collect();
        while !suspects.is_empty() {
            let is_last = Instant::now() >= until;
            let mut still_in_one = Vec::new();
            for page in suspects.chunks(PAGE) {
                let (users, codes): (Vec<UserId>, Vec<CouponCode>) = page.iter().cloned().unzip();
                // Redis first: what it has voided was voided in Postgres before.
                let entries = self.stores.redis_store.issued_to(self.name, &users).await?;
                let voided: HashSet<CouponCode> =
                    self.stores.database.voided_among(self.uid, &codes).await?.into_iter().collect();
                for ((user, coupon), entry) in page.iter().cloned().zip(entries) {
                    // Without an entry of this coupon, that is the discrepancy.
                    let Some(Ok(IssuedEntry { issued, status })) = entry else { continue };
                    let in_postgres = voided.contains(&coupon);
                    if issued.coupon == coupon && (status == IssuedStatus::Voided) != in_postgres {
                        still_in_one.push((user, coupon, in_postgres));
                    }
                }
            }
            suspects.clear();
            for (user, coupon, in_postgres) in still_in_one {
                if is_last || !in_postgres {
                    self.add(Discrepancy::VoidedInOne { coupon, user, in_postgres });
                } else {
                    suspects.push((user, coupon));
                }
            }
            if !suspects.is_empty() {
                sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// The users who have these coupons in Redis.
    async fn holders(
        &self,
        coupons: &HashSet<CouponCode>,
    ) -> Result<HashMap<CouponCode, BTreeSet<UserId>>, AuditError> {
        let mut holders: HashMap<CouponCode, BTreeSet<UserId>> = HashMap::new();
        if coupons.is_empty() {
            return Ok(holders);
        }
        let visit = |entry| {
            let Ok(IssuedEntry { issued, status }) = entry else { return };
            if status != IssuedStatus::Cancelled && coupons.contains(&issued.coupon) {
                holders.entry(issued.coupon).or_default().insert(issued.user_id);
            }
        };
        self.stores.redis_store.each_issued(self.name, visit).await?;
        Ok(holders)
    }

    /// How many coupons are loaded; None: Redis does not have the event.
    async fn loaded(&self) -> Result<Option<u64>, AuditError> {
        Ok(self.stores.observe(self.name, self.uid).await?.map(|observed| observed.loaded))
    }

    /// Counts how often each of these coupons is in the queue now.
    async fn count_in_queue(
        &self,
        coupons: impl IntoIterator<Item = (CouponCode, Discount)>,
    ) -> Result<QueueCounts, AuditError> {
        let mut counts: QueueCounts = coupons.into_iter().map(|(coupon, discount)| (coupon, (discount, 0))).collect();
        if counts.is_empty() {
            return Ok(counts);
        }
        let visit = |item| {
            let Ok((coupon, discount)) = item else { return };
            if let Some((expected, times)) = counts.get_mut(&coupon)
                && *expected == discount
            {
                *times += 1;
            }
        };
        self.stores.redis_store.each_available(self.name, visit).await?;
        Ok(counts)
    }

    /// Counts coupons that are not loaded yet, and returns loaded coupons that Redis does not have. They may have been
    /// put back into the queue after it was read.
    async fn missing(&mut self) -> Result<Vec<(CouponCode, Discount)>, AuditError> {
        let Some(RedisEvent { loaded, .. }) = self.observed else {
            let counts = &mut self.comparison.counts;
            counts.not_loaded = if counts.retired { 0 } else { counts.generated };
            return Ok(Vec::new());
        };
        let mut missing = Vec::new();
        if self.comparison.all_generated_are_in_redis() {
            return Ok(missing);
        }
        let stores = self.stores;
        let mut coupons = stores.database.stream_coupons(self.uid);
        while let Some(Coupon { ordinal, code: coupon, discount }) = coupons.try_next().await? {
            if self.comparison.is_in_redis(&coupon, discount) != Some(false) {
                continue;
            }
            if ordinal >= loaded {
                self.comparison.counts.not_loaded += 1;
            } else {
                missing.push((coupon, discount));
            }
            // Bounds the memory.
            if missing.len() == MAX_SUSPECTS {
                let queue = self.count_in_queue(std::mem::take(&mut missing)).await?;
                for (coupon, _) in queue.into_iter().filter(|(_, (_, times))| *times == 0) {
                    self.add(Discrepancy::Missing { coupon });
                }
            }
        }
        Ok(missing)
    }

    /// Checks the suspects in flight until none is left, the backlog is empty, or the timeout has passed.
    async fn recheck_until_drained(&mut self, timeout: Duration) -> Result<InFlight, AuditError> {
        let until = Instant::now() + timeout;
        loop {
            // Read before the suspects: with an empty backlog, a suspect that is still missing will not arrive.
            let observed = self.stores.observe(self.name, self.uid).await?;
            let backlog = RecheckBacklog {
                outbox: observed.as_ref().map_or(0, |observed| observed.outbox),
                lag: self.stores.lag().await?,
                now: observed.map(|observed| observed.now),
            };
            self.comparison.counts.outbox = backlog.outbox;
            self.comparison.counts.lag = backlog.lag;
            let is_last = backlog.is_empty() || Instant::now() >= until;
            let in_flight = self.check_suspects(&backlog).await?;
            let suspects = &self.comparison.suspects;
            let rest = suspects.unrecorded.len() + suspects.pending.len() + suspects.only_in_kafka.len();
            if rest == 0 || is_last {
                return Ok(in_flight);
            }
            sleep(PAUSE).await;
        }
    }

    /// Checks every suspect once, and keeps those in flight. Nothing is in flight if the backlog was empty.
    async fn check_suspects(&mut self, backlog: &RecheckBacklog) -> Result<InFlight, AuditError> {
        let backlog_is_empty = backlog.is_empty();
        let suspects = &mut self.comparison.suspects;
        let unrecorded: Vec<_> = suspects.unrecorded.drain().map(|(_, suspect)| suspect).collect();
        let pending: Vec<_> = suspects.pending.drain().map(|(_, issued)| issued).collect();
        let only_in_kafka: Vec<_> = suspects.only_in_kafka.drain().collect();
        let mut in_flight: BTreeSet<IssuedCoupon> = BTreeSet::new();

        for page in unrecorded.chunks(PAGE) {
            let state = self.read_state(page.iter().map(|(issued, _)| issued)).await?;
            for (issued, status) in page {
                if self.is_in_flight(state.check_unrecorded(issued), backlog_is_empty) {
                    in_flight.insert(issued.clone());
                    let suspect = (issued.clone(), *status);
                    self.comparison.suspects.unrecorded.insert(issued.user_id.clone(), suspect);
                }
            }
        }
        for page in pending.chunks(PAGE) {
            let state = self.read_state(page.iter()).await?;
            for issued in page {
                if self.is_in_flight(state.check_pending(issued), backlog_is_empty) {
                    in_flight.insert(issued.clone());
                    self.comparison.suspects.pending.insert(issued.user_id.clone(), issued.clone());
                }
            }
        }
        for page in only_in_kafka.chunks(PAGE) {
            let state = self.read_state(page.iter()).await?;
            for issued in page {
                if self.is_in_flight(state.check_only_in_kafka(issued, &self.dead_letters), backlog_is_empty) {
                    in_flight.insert(issued.clone());
                    self.comparison.suspects.only_in_kafka.insert(issued.clone());
                }
            }
        }
        let oldest = in_flight.iter().map(|issued| issued.issued_at).min();
        let is_delayed = oldest.zip(backlog.now).is_some_and(|(issued_at, now)| now - issued_at > MAX_TIME_IN_FLIGHT);
        Ok(InFlight { coupons: in_flight.len() as u64, oldest, is_delayed })
    }

    async fn read_state(
        &self,
        suspects: impl Iterator<Item = &IssuedCoupon> + Clone,
    ) -> Result<CurrentState, AuditError> {
        CurrentState::read(self.stores, self.name, self.uid, self.observed.is_some(), suspects).await
    }

    /// Reports the discrepancy of a check, unless the suspect is in flight.
    fn is_in_flight(&mut self, check: Check, backlog_is_empty: bool) -> bool {
        match check {
            Check::Ok => false,
            Check::InFlight(_) if !backlog_is_empty => true,
            Check::InFlight(discrepancy) | Check::Discrepancy(discrepancy) => {
                self.add(discrepancy);
                false
            }
        }
    }
}
