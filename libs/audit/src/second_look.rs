//! Looking again at what did not fit together: it may have arrived since, or still be on its way.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use couponry_domain::{Coupon, Discount, EventName, UserId, Uuid, code::CouponCode};
use couponry_redis::{Holding, Observed, Status};
use futures::TryStreamExt as _;
use tokio::time::{Instant, sleep};

use crate::{
    Difference, Held, InFlight,
    comparison::{Comparison, SUSPECTS},
    stores::{AuditError, Stores, readable},
};

/// How long to leave the stores alone between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// How many users or coupons are asked for at a time.
const PAGE: usize = 5000;

/// What is known after the first look.
pub(crate) struct SecondLook<'a> {
    pub(crate) stores: &'a Stores,
    pub(crate) name: &'a EventName,
    pub(crate) uid: Uuid,
    /// The event in Redis before it was read; None: it is not there.
    pub(crate) observed: Option<Observed>,
    /// What the dead letters are about.
    pub(crate) dead_letters: Vec<Held>,
    pub(crate) comparison: Comparison,
}

/// What a suspect turned out to be.
enum Judgement {
    Fine,
    /// On its way, unless nothing is.
    Waiting(Difference),
    Differs(Difference),
}

/// Where things stood before a look.
struct Rest {
    outbox: u64,
    lag: u64,
}

impl Rest {
    const fn is_reached(&self) -> bool {
        self.outbox == 0 && self.lag == 0
    }
}

impl SecondLook<'_> {
    pub(crate) async fn look(mut self, patience: Duration) -> Result<(Comparison, InFlight), AuditError> {
        // Before the suspects are judged and thrown away: they know who holds what in Redis.
        self.look_for_recorded().await?;
        self.look_at_stock().await?;
        self.look_for_missing().await?;
        let in_flight = self.look_at_suspects(patience).await?;
        Ok((self.comparison, in_flight))
    }

    fn differs(&mut self, difference: Difference) {
        self.comparison.differences.add(difference);
    }

    /// What is recorded was issued and sent before.
    async fn look_for_recorded(&mut self) -> Result<(), AuditError> {
        let (in_redis, in_kafka) = self.comparison.all_recorded_is_in();
        let miss_redis = self.observed.is_some() && !in_redis;
        let miss_kafka = self.comparison.counts.topic_is_whole && !in_kafka;
        if !miss_redis && !miss_kafka {
            return Ok(());
        }
        let stores = self.stores;
        let mut issuances = stores.database.issuances(self.uid);
        let mut missing = Vec::new();
        while let Some(issuance) = issuances.try_next().await? {
            let held = Held::from(issuance);
            // Recorded after the first look at Postgres: of it, nothing was looked for.
            let Some((is_in_redis, is_in_kafka)) = self.comparison.is_in(&held) else { continue };
            if miss_kafka && !is_in_kafka {
                self.differs(Difference::NotInKafka(held.clone()));
            }
            if miss_redis && !is_in_redis {
                missing.push(held);
            }
            if missing.len() == PAGE {
                self.look_in_redis(std::mem::take(&mut missing)).await?;
            }
        }
        self.look_in_redis(missing).await
    }

    /// These are recorded, and Redis did not show them.
    async fn look_in_redis(&mut self, missing: Vec<Held>) -> Result<(), AuditError> {
        let users: Vec<UserId> = missing.iter().map(|held| held.user.clone()).collect();
        let holdings = self.stores.stock.holdings_of(self.name, &users).await?;
        let holders: HashMap<&CouponCode, &UserId> =
            self.comparison.suspects.unrecorded.values().map(|(held, _)| (&held.coupon, &held.user)).collect();
        let mut differences = Vec::new();
        for (held, holding) in missing.into_iter().zip(holdings) {
            // Where Redis gives this user another coupon, or this coupon to another user, that is judged as a suspect.
            if holding.is_none() && !holders.contains_key(&held.coupon) {
                differences.push(Difference::NotInRedis(held));
            }
        }
        for difference in differences {
            self.differs(difference);
        }
        Ok(())
    }

    /// Coupons that are in the wrong place, or in two places.
    async fn look_at_stock(&mut self) -> Result<(), AuditError> {
        let suspects = &mut self.comparison.suspects;
        let not_stocked: Vec<_> = suspects.not_stocked.drain().collect();
        let queued_twice: Vec<_> = suspects.queued_twice.drain().collect();
        let queued_and_held = std::mem::take(&mut suspects.queued_and_held);
        let mut coupons: HashSet<CouponCode> = suspects.held_twice.drain().collect();
        coupons.extend(queued_and_held.keys().cloned());

        for page in not_stocked.chunks(PAGE) {
            let codes: Vec<CouponCode> = page.iter().map(|(coupon, ..)| coupon.clone()).collect();
            let stocked = self.stores.database.coupons_with_codes(self.uid, &codes).await?;
            let stocked: HashMap<&str, Discount> = stocked.iter().map(|c| (c.code.as_str(), c.discount)).collect();
            for (coupon, discount, place) in page {
                let (coupon, place, found) = (coupon.clone(), *place, *discount);
                match stocked.get(coupon.as_str()) {
                    // Added since the stock was read.
                    Some(stocked) if *stocked == found => {}
                    Some(stocked) => {
                        self.differs(Difference::WrongDiscount { coupon, place, found, stocked: *stocked });
                    }
                    None => self.differs(Difference::NotStocked { coupon, place }),
                }
            }
        }

        if !coupons.is_empty() {
            let mut users: HashMap<CouponCode, BTreeSet<UserId>> = HashMap::new();
            let show = |user, holding: Holding| {
                if holding.status != Status::Cancelled && coupons.contains(&holding.coupon) {
                    users.entry(holding.coupon).or_default().insert(user);
                }
            };
            self.stores.stock.each_issued(self.name, show).await?;
            let available = self.times_queued(queued_and_held).await?;
            for (coupon, users) in users {
                if available.get(&coupon).is_some_and(|times| *times > 0)
                    && let Some(user) = users.first()
                {
                    self.differs(Difference::QueuedAndHeld { coupon: coupon.clone(), user: user.clone() });
                }
                if users.len() > 1 {
                    self.differs(Difference::HeldTwice { coupon, users: users.into_iter().collect() });
                }
            }
        }
        // Coupons that are added while the queue is read move the others, and these are shown again.
        let loaded = self.loaded().await?;
        let available = self.times_queued(queued_twice).await?;
        let nothing_was_added = self.loaded().await? == loaded;
        for (coupon, _) in available.into_iter().filter(|(_, times)| *times > 1) {
            if nothing_was_added {
                self.differs(Difference::QueuedTwice { coupon });
            } else {
                self.comparison.suspects.unchecked += 1;
            }
        }
        Ok(())
    }

    /// How many coupons Redis has got so far; None: it does not have the event.
    async fn loaded(&self) -> Result<Option<u64>, AuditError> {
        Ok(self.stores.observe(self.name, self.uid).await?.map(|observed| observed.loaded))
    }

    /// How often each of these coupons is available now.
    async fn times_queued(
        &self,
        coupons: impl IntoIterator<Item = (CouponCode, Discount)>,
    ) -> Result<BTreeMap<CouponCode, usize>, AuditError> {
        let wanted: HashMap<CouponCode, Discount> = coupons.into_iter().collect();
        let mut times: BTreeMap<CouponCode, usize> = wanted.keys().map(|coupon| (coupon.clone(), 0)).collect();
        if wanted.is_empty() {
            return Ok(times);
        }
        let count = |coupon, discount| {
            if wanted.get(&coupon) == Some(&discount)
                && let Some(times) = times.get_mut(&coupon)
            {
                *times += 1;
            }
        };
        self.stores.stock.each_queued(self.name, count).await?;
        Ok(times)
    }

    /// Coupons that were made, and that Redis does not have.
    async fn look_for_missing(&mut self) -> Result<(), AuditError> {
        let Some(Observed { loaded, .. }) = self.observed else {
            let counts = &mut self.comparison.counts;
            counts.not_loaded = if counts.retired { 0 } else { counts.stocked };
            return Ok(());
        };
        if self.comparison.all_is_accounted_for() {
            return Ok(());
        }
        let stores = self.stores;
        let mut coupons = stores.database.stock(self.uid);
        let mut missing = Vec::new();
        while let Some(Coupon { ordinal, code, discount }) = coupons.try_next().await? {
            let coupon = readable(&code)?;
            if self.comparison.is_accounted_for(&coupon, discount) != Some(false) {
                continue;
            }
            if ordinal >= loaded {
                self.comparison.counts.not_loaded += 1;
            } else {
                missing.push((coupon, discount));
            }
            // The memory of an audit does not grow with what is wrong.
            if missing.len() == SUSPECTS {
                self.look_in_queue(std::mem::take(&mut missing)).await?;
            }
        }
        self.look_in_queue(missing).await
    }

    /// Redis showed none of these: they may have come back to the queue after the queue was read.
    async fn look_in_queue(&mut self, missing: Vec<(CouponCode, Discount)>) -> Result<(), AuditError> {
        for (coupon, times) in self.times_queued(missing).await? {
            if times == 0 {
                self.differs(Difference::Missing { coupon });
            }
        }
        Ok(())
    }

    /// What an earlier store has and a later one had not.
    async fn look_at_suspects(&mut self, patience: Duration) -> Result<InFlight, AuditError> {
        let until = Instant::now() + patience;
        loop {
            // What was issued before nothing was on its way any more has arrived, or never will.
            let outbox = self.stores.observe(self.name, self.uid).await?.map_or(0, |observed| observed.outbox);
            let rest = Rest { outbox, lag: self.stores.lag().await? };
            self.comparison.counts.outbox = rest.outbox;
            self.comparison.counts.lag = rest.lag;
            let is_last = rest.is_reached() || Instant::now() >= until;
            let waiting = self.judge(&rest, is_last).await?;
            let suspects = &self.comparison.suspects;
            let left = suspects.unrecorded.len() + suspects.unsettled.len() + suspects.only_in_kafka.len();
            if left == 0 || is_last {
                return Ok(waiting);
            }
            sleep(PAUSE).await;
        }
    }

    /// Judges every suspect, and keeps those that are still waiting. At the last look these are in flight, or differ when
    /// nothing is on its way.
    async fn judge(&mut self, rest: &Rest, is_last: bool) -> Result<InFlight, AuditError> {
        let suspects = &mut self.comparison.suspects;
        let unrecorded: Vec<_> = suspects.unrecorded.drain().map(|(_, suspect)| suspect).collect();
        let unsettled: Vec<_> = suspects.unsettled.drain().map(|(_, held)| held).collect();
        let only_in_kafka: Vec<_> = suspects.only_in_kafka.drain().collect();
        let mut waiting: BTreeSet<Held> = BTreeSet::new();

        for page in unrecorded.chunks(PAGE) {
            let held: Vec<&Held> = page.iter().map(|(held, _)| held).collect();
            let now = Now::look(self, &held).await?;
            for (held, status) in page {
                match self.keep(now.unrecorded(held), rest, is_last) {
                    Kept::No => {}
                    Kept::Yes => {
                        waiting.insert(held.clone());
                        self.comparison.suspects.unrecorded.insert(held.user.clone(), (held.clone(), *status));
                    }
                }
            }
        }
        for page in unsettled.chunks(PAGE) {
            let now = Now::look(self, &page.iter().collect::<Vec<_>>()).await?;
            for held in page {
                match self.keep(now.unsettled(held), rest, is_last) {
                    Kept::No => {}
                    Kept::Yes => {
                        waiting.insert(held.clone());
                        self.comparison.suspects.unsettled.insert(held.user.clone(), held.clone());
                    }
                }
            }
        }
        for page in only_in_kafka.chunks(PAGE) {
            let now = Now::look(self, &page.iter().collect::<Vec<_>>()).await?;
            for held in page {
                match self.keep(now.only_in_kafka(held, &self.dead_letters), rest, is_last) {
                    Kept::No => {}
                    Kept::Yes => {
                        waiting.insert(held.clone());
                        self.comparison.suspects.only_in_kafka.insert(held.clone());
                    }
                }
            }
        }
        let oldest = waiting.iter().map(|held| held.issued_at).min();
        Ok(InFlight { coupons: waiting.len() as u64, oldest })
    }

    fn keep(&mut self, judgement: Judgement, rest: &Rest, is_last: bool) -> Kept {
        match judgement {
            Judgement::Fine => Kept::No,
            Judgement::Differs(difference) => {
                self.differs(difference);
                Kept::No
            }
            Judgement::Waiting(difference) if is_last && rest.is_reached() => {
                self.differs(difference);
                Kept::No
            }
            Judgement::Waiting(_) => Kept::Yes,
        }
    }
}

enum Kept {
    Yes,
    No,
}

/// What the stores say now of some users and coupons.
struct Now {
    by_user: HashMap<UserId, Held>,
    by_coupon: HashMap<CouponCode, Held>,
    /// None: Redis does not have the event.
    holdings: Option<HashMap<UserId, Holding>>,
}

impl Now {
    /// Redis first: what it says is settled, Postgres has then.
    async fn look(look: &SecondLook<'_>, about: &[&Held]) -> Result<Self, AuditError> {
        let users: Vec<UserId> = about.iter().map(|held| held.user.clone()).collect();
        let codes: Vec<CouponCode> = about.iter().map(|held| held.coupon.clone()).collect();
        let holdings = if look.observed.is_some() {
            let holdings = look.stores.stock.holdings_of(look.name, &users).await?;
            Some(users.iter().cloned().zip(holdings).filter_map(|(user, holding)| Some((user, holding?))).collect())
        } else {
            None
        };
        let recorded = look.stores.database.issuances_about(look.uid, &users, &codes).await?;
        let recorded: Vec<Held> = recorded.into_iter().map(Held::from).collect();
        Ok(Self {
            by_user: recorded.iter().map(|held| (held.user.clone(), held.clone())).collect(),
            by_coupon: recorded.into_iter().map(|held| (held.coupon.clone(), held)).collect(),
            holdings,
        })
    }

    /// Redis said so, Postgres had nothing.
    fn unrecorded(&self, held: &Held) -> Judgement {
        let Some(holding) = self.holdings.as_ref().and_then(|holdings| holdings.get(&held.user)) else {
            // The event left Redis just now.
            return Judgement::Fine;
        };
        if holding.status == Status::Cancelled {
            return Judgement::Fine;
        }
        let redis = Held::by(held.user.clone(), holding);
        let wait = |difference| match holding.status {
            Status::Pending => Judgement::Waiting(difference),
            Status::Completed | Status::Cancelled => Judgement::Differs(difference),
        };
        if let Some(postgres) = self.by_user.get(&redis.user) {
            return match postgres {
                same if *same == redis => Judgement::Fine,
                other if other.coupon == redis.coupon => {
                    Judgement::Differs(Difference::Details { redis, postgres: other.clone() })
                }
                other => wait(Difference::TwoCoupons {
                    user: redis.user,
                    redis: redis.coupon,
                    postgres: other.coupon.clone(),
                }),
            };
        }
        match self.by_coupon.get(&redis.coupon) {
            Some(other) => {
                wait(Difference::TwoHolders { coupon: redis.coupon, redis: redis.user, postgres: other.user.clone() })
            }
            None => wait(Difference::NotRecorded { held: redis, status: holding.status }),
        }
    }

    /// Postgres has it, Redis said PENDING.
    fn unsettled(&self, held: &Held) -> Judgement {
        match self.holdings.as_ref().and_then(|holdings| holdings.get(&held.user)) {
            Some(holding) if holding.status == Status::Pending => {
                Judgement::Waiting(Difference::NotSettled(held.clone()))
            }
            _ => Judgement::Fine,
        }
    }

    /// Kafka has it, Postgres had nothing.
    fn only_in_kafka(&self, held: &Held, dead_letters: &[Held]) -> Judgement {
        if self.by_user.get(&held.user) == Some(held) || dead_letters.contains(held) {
            return Judgement::Fine;
        }
        let postgres = self.by_coupon.get(&held.coupon).map(|other| other.user.clone());
        Judgement::Waiting(Difference::OnlyInKafka { held: held.clone(), postgres })
    }
}
