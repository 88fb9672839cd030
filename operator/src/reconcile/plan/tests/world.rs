//! The plan against a model of both stores, through changes of the manifest, the clock, users, crashes of the operator and the
//! loss of Redis.

use proptest::prelude::*;

use super::*;

/// Both stores, as far as the plan depends on them.
#[derive(Debug)]
struct World {
    stored: Option<StoredEvent>,
    redis: Option<Observed>,
    now: i64,
    /// Coupons that users were ever told of.
    told: u64,
    /// Which Redis it is.
    server: u32,
}

#[derive(Clone, Debug)]
enum Happening {
    Total(u64),
    Issuance(Issuance),
    Start(Option<i64>),
    TimePasses(i64),
    UsersAsk(u64),
    RedisIsLost,
    RedisRestarts,
    /// So many of the last coupons given are unknown to the replica that takes over.
    RedisLags(u64),
    /// The operator gets so far.
    Steps(u8),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (1..40u64).prop_map(Happening::Total),
        prop_oneof![Just(Issuance::Auto), Just(Issuance::Auto), Just(Issuance::Paused), Just(Issuance::Closed)]
            .prop_map(Happening::Issuance),
        proptest::option::of(-2..4i64).prop_map(|hours| Happening::Start(hours.map(|hours| NOW + hours * 3_600_000))),
        (0..5_000_000i64).prop_map(Happening::TimePasses),
        (1..10u64).prop_map(Happening::UsersAsk),
        Just(Happening::RedisIsLost),
        Just(Happening::RedisRestarts),
        (1..5u64).prop_map(Happening::RedisLags),
        (0..12u8).prop_map(Happening::Steps),
        (0..12u8).prop_map(Happening::Steps),
        (0..12u8).prop_map(Happening::Steps),
    ]
}

impl World {
    fn seen(&self) -> Seen {
        let redis = self.redis.clone().map(|redis| Observed {
            now: self.now,
            is_verified: redis.server == self.server.to_string(),
            ..redis
        });
        let arrival = redis.as_ref().filter(|redis| !redis.is_verified).map(|_| Arrival::Complete);
        // What was on its way has arrived, where somebody waits for it.
        let recorded = if arrival.is_some() { self.told } else { 0 };
        Seen { stored: self.stored.clone(), known_recorded: 0, recorded, redis, rival: None, arrival, now: self.now }
    }

    /// What the stores do, with what they refuse.
    fn take(&mut self, step: Step, wanted: &Wanted) {
        match step {
            Step::Register => {
                let event = self.stored.get_or_insert_with(|| stored(vec![], None));
                event.policy_name.clone_from(&wanted.policy_name);
                event.generation = wanted.generation;
            }
            Step::MakeStock(lot) => {
                let event = self.stored.as_mut().unwrap();
                assert_eq!(event.stock_len(), lot.first_ordinal);
                for (discount, count) in lot.counts {
                    match event.stock.iter_mut().find(|(known, _)| *known == discount) {
                        Some((_, held)) => *held += count,
                        None => event.stock.push((discount, count)),
                    }
                }
            }
            Step::Prepare => {
                let stock_epoch = self.stored.as_ref().unwrap().stock_epoch;
                let new = Observed { generation: 0, stock_epoch, server: String::new(), ..redis(Gate::Loading, 0, 0) };
                self.redis.get_or_insert(new);
            }
            Step::Adopt => {
                assert_eq!(self.redis.as_ref().unwrap().issued, self.told, "coupons would be given again");
                self.redis.as_mut().unwrap().server = self.server.to_string();
            }
            Step::Recover => {
                let loaded = self.stored.as_ref().unwrap().stock_len();
                let (issued, available) = (self.told, loaded - self.told);
                let server = self.server.to_string();
                let redis = self.redis.as_mut().unwrap();
                *redis = Observed { loaded, available, issued, completed: issued, server, ..redis.clone() };
            }
            Step::Load { from, to } => {
                let redis = self.redis.as_mut().unwrap();
                assert_eq!(redis.loaded, from);
                // A part of it, as when the operator is killed in the middle.
                let chunk = (to - from).min(7);
                redis.loaded += chunk;
                redis.available += chunk;
            }
            Step::ScheduleOpening { at } => {
                let event = self.stored.as_mut().unwrap();
                event.opened_at = Some(event.opened_at.map_or(at, |noted| noted.min(at)));
            }
            Step::WithdrawOpening => {
                let event = self.stored.as_mut().unwrap();
                assert!(event.opened_at.is_some_and(|at| at > self.now), "the database refuses it: {event:?}");
                event.opened_at = None;
            }
            Step::SetGate(opening) => {
                let redis = self.redis.as_mut().unwrap();
                let leaves_loading = redis.gate == Gate::Loading && matches!(opening.gate, Gate::Open | Gate::Paused);
                assert!(
                    !leaves_loading || (redis.loaded == opening.total && redis.available + redis.issued == opening.total),
                    "Redis refuses it: {redis:?}, {opening:?}"
                );
                let gate = if redis.gate == Gate::Closed { Gate::Closed } else { opening.gate };
                let Opening { window, acknowledge, generation, .. } = opening;
                *redis = Observed { gate, window, acknowledge, generation, ..redis.clone() };
            }
            Step::RemoveStockEpoch(stock_epoch) => {
                assert_eq!(self.redis.take().map(|redis| redis.stock_epoch), Some(stock_epoch));
            }
            Step::DiscardStock => {
                let event = self.stored.as_mut().unwrap();
                assert_eq!(event.opened_at, None, "the database refuses it");
                event.stock.clear();
                event.stock_epoch += 1;
            }
            Step::CloseForeign(..) | Step::RemoveForeign(_) => unreachable!("there is no other event"),
            Step::Retire => unreachable!("no manifest asks for it"),
        }
    }

    fn ask(&mut self, users: u64) {
        if let Some(redis) = &mut self.redis
            && redis.server == self.server.to_string()
            && redis.window.verdict(redis.gate, self.now) == couponry_domain::Verdict::Open
        {
            let given = users.min(redis.available);
            redis.available -= given;
            redis.issued += given;
            self.told += given;
        }
    }

    fn check(&self) {
        let opened_at = self.stored.as_ref().and_then(|event| event.opened_at);
        let len = self.stored.as_ref().map_or(0, StoredEvent::stock_len);
        if let Some(redis) = &self.redis {
            let is_current = self.stored.as_ref().is_some_and(|event| event.stock_epoch == redis.stock_epoch);
            assert!(redis.loaded <= len || !is_current, "Redis has coupons that Postgres has not");
            if redis.gate == Gate::Open {
                let opens_at = opened_at.expect("Postgres knows before the gate opens");
                assert!(redis.window.start.is_none_or(|start| opens_at <= start.max(self.now)), "and from when on");
            }
        }
        if self.told > 0 {
            assert!(opened_at.is_some_and(|at| at <= self.now), "coupons were given out before the opening was noted");
            assert!(len >= self.told, "the stock was made anew under its users");
            let verified = self.redis.as_ref().filter(|redis| redis.server == self.server.to_string());
            assert!(verified.is_none_or(|redis| redis.issued == self.told), "coupons can be given again");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn whatever_happens_nobody_loses_a_coupon_and_the_end_is_as_the_manifest_says(
        happenings in proptest::collection::vec(happening(), 1..40),
    ) {
        let mut wanted = wanted(10);
        let mut world = World { stored: None, redis: None, now: NOW, told: 0, server: 1 };
        for happening in happenings {
            // The API server refuses these once the status says that the event has opened; the operator may be late with that.
            let opened = world.told > 0;
            match happening {
                Happening::Total(total) if !opened || total >= wanted.total => wanted.total = total,
                Happening::Start(start) if !opened => wanted.window.start = start,
                Happening::Total(_) | Happening::Start(_) => continue,
                Happening::Issuance(_) if wanted.issuance == Issuance::Closed => continue,
                Happening::Issuance(issuance) => wanted.issuance = issuance,
                Happening::TimePasses(time) => world.now += time,
                Happening::UsersAsk(users) => world.ask(users),
                Happening::RedisIsLost => world.redis = None,
                Happening::RedisRestarts => world.server += 1,
                Happening::RedisLags(coupons) => {
                    world.server += 1;
                    if let Some(redis) = &mut world.redis {
                        let lost = coupons.min(redis.issued);
                        (redis.issued, redis.available) = (redis.issued - lost, redis.available + lost);
                    }
                }
                Happening::Steps(steps) => {
                    for _ in 0..steps {
                        let Plan::Do(step) = plan(&wanted, &world.seen()) else { break };
                        world.take(step, &wanted);
                        world.check();
                    }
                    continue;
                }
            }
            wanted.generation += 1;
            world.check();
        }

        let mut steps = 0;
        let end = loop {
            match plan(&wanted, &world.seen()) {
                Plan::Do(step) => world.take(step, &wanted),
                end => break end,
            }
            world.check();
            steps += 1;
            prop_assert!(steps < 60, "no end: {world:?}");
        };
        let redis = world.redis.as_ref();
        match end {
            Plan::Rest if redis.is_some_and(|redis| redis.gate == Gate::Closed) => {}
            Plan::Rest => {
                let redis = redis.unwrap();
                prop_assert_eq!(redis.loaded, wanted.total);
                prop_assert_eq!(world.stored.as_ref().unwrap().stock_len(), wanted.total);
                prop_assert_eq!(redis.gate == Gate::Open, wanted.issuance == Issuance::Auto);
                prop_assert_eq!(redis.window, wanted.window);
            }
            Plan::Stuck(obstacle) => prop_assert_eq!(obstacle.reason, reason::CHANGE_NOT_POSSIBLE),
            Plan::Do(_) => unreachable!(),
        }
    }
}
