//! Runs the plan against a model of both stores, with changes of the manifest, users, crashes of the operator, loss of
//! Redis, a Redis that comes back from an older snapshot, and a clock of Redis that jumps.

use couponry_domain::{Drops, StockDrop, Validity};
use proptest::prelude::*;

use super::*;
use crate::reconcile::{gate::recovered_gate_settings, recording::RecordingState};

/// Both stores, as far as the plan depends on them.
#[derive(Debug)]
struct Model {
    stored: Option<StoredEvent>,
    redis: Option<RedisEvent>,
    /// The clock of Redis.
    now: i64,
    /// Coupons that were ever returned to users.
    returned: u64,
    /// The validity with which they were issued.
    validity: Option<Validity>,
    /// The release and the start of the ramp by which users were answered. None: no answer depended on them.
    told: Option<(Release, Option<i64>)>,
    /// The gate and the window that were set last.
    applied: (Gate, Window),
    /// All states of Redis so far.
    snapshots: Vec<RedisEvent>,
    /// Changes with every restart and failover.
    replication_id: u32,
}

#[derive(Clone, Debug)]
enum Action {
    Total(u64),
    Issuance(IssuingMode),
    Start(Option<i64>),
    /// A ramp, and the time of a drop.
    Release(Option<u32>, Option<i64>),
    /// The coupons are valid for this many days.
    ValidDays(Option<u8>),
    TimePasses(i64),
    /// The clock of Redis is set forward or back.
    ClockJumps(i64),
    UsersRequest(u64),
    /// Users who have to wait: they are not admitted yet, or the available coupons are held back.
    UsersWait,
    /// An operator that reaches only Redis pauses or closes the gate.
    RestrictGate,
    RedisLosesData,
    RedisRestarts,
    /// To a replica that lacks this many of the last issuances.
    RedisFailsOver(u64),
    /// To one of the earlier states.
    RedisRollsBack(prop::sample::Index),
    /// The operator applies up to this many steps.
    Steps(u8),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        (1..40u64).prop_map(Action::Total),
        prop_oneof![
            Just(IssuingMode::Auto),
            Just(IssuingMode::Auto),
            Just(IssuingMode::Paused),
            Just(IssuingMode::Closed)
        ]
        .prop_map(Action::Issuance),
        proptest::option::of(-2..4i64).prop_map(|hours| Action::Start(hours.map(|hours| NOW + hours * 3_600_000))),
        proptest::option::of(1..3u8).prop_map(Action::ValidDays),
        (proptest::option::of(1..3u32), proptest::option::of(NOW..NOW + 2))
            .prop_map(|(ramp_seconds, drop)| Action::Release(ramp_seconds, drop)),
        (0..5_000_000i64).prop_map(Action::TimePasses),
        (-10_000_000..10_000_000i64).prop_map(Action::ClockJumps),
        (1..10u64).prop_map(Action::UsersRequest),
        Just(Action::UsersWait),
        Just(Action::RestrictGate),
        Just(Action::RedisLosesData),
        Just(Action::RedisRestarts),
        (1..5u64).prop_map(Action::RedisFailsOver),
        any::<prop::sample::Index>().prop_map(Action::RedisRollsBack),
        (0..12u8).prop_map(Action::Steps),
        (0..12u8).prop_map(Action::Steps),
        (0..12u8).prop_map(Action::Steps),
    ]
}

impl Model {
    fn observe(&self) -> ObservedState {
        let redis = self.redis.clone().map(|redis| RedisEvent {
            now: self.now,
            is_verified: redis.replication_id == self.replication_id.to_string(),
            is_restore_requested: false,
            ..redis
        });
        let drain = redis.as_ref().filter(|redis| !redis.is_verified).map(|_| DrainState::Complete);
        // After a complete drain everything is recorded.
        let recorded = if drain.is_some() { self.returned } else { 0 };
        ObservedState {
            stored: self.stored.clone(),
            marked_recorded: 0,
            recorded,
            uses: UseCounts::default(),
            imports: Vec::new(),
            redis,
            name_conflict: None,
            drain,
            recording: RecordingState::default(),
            redis_blocker: None,
        }
    }

    /// Applies a step as the stores do, and panics where they would reject it.
    fn apply(&mut self, step: Step, desired: &DesiredState) {
        match step {
            Step::Register => {
                let event = self.stored.get_or_insert_with(|| stored(vec![], None));
                event.policy_name.clone_from(&desired.policy_name);
                event.generation = desired.generation;
                if event.opens_at.is_none() {
                    event.terms.clone_from(&desired.terms);
                    event.release.clone_from(&desired.release);
                }
            }
            Step::GenerateStock(batch) => {
                let event = self.stored.as_mut().unwrap();
                assert_eq!(event.generated(), batch.first_ordinal);
                for (discount, count) in batch.counts {
                    match event.discount_counts.iter_mut().find(|(known, _)| *known == discount) {
                        Some((_, existing)) => *existing += count,
                        None => event.discount_counts.push((discount, count)),
                    }
                }
            }
            Step::Prepare => {
                let stock_epoch = self.stored.as_ref().unwrap().stock_epoch;
                let new = RedisEvent {
                    generation: 0,
                    stock_epoch,
                    replication_id: "none".to_owned(),
                    ..redis(Gate::Loading, 0, 0)
                };
                self.redis.get_or_insert(new);
            }
            Step::MarkVerified => {
                assert_eq!(self.redis.as_ref().unwrap().issued, self.returned, "coupons would be issued again");
                self.redis.as_mut().unwrap().replication_id = self.replication_id.to_string();
            }
            Step::Recover => self.recover(desired),
            Step::Load { from, to } => {
                let redis = self.redis.as_mut().unwrap();
                assert_eq!(redis.loaded, from);
                // Only a part, as if the operator was killed meanwhile.
                let chunk = (to - from).min(7);
                redis.loaded += chunk;
                redis.available += chunk;
            }
            Step::ScheduleOpening { at, start, is_final } => {
                let event = self.stored.as_mut().unwrap();
                event.starts_at = start;
                event.opens_at = Some(event.opens_at.map_or(at, |current| current.min(at)));
                event.is_opening_final |= is_final;
            }
            Step::WithdrawOpening => {
                let (redis, event) = (self.redis.as_mut().unwrap(), self.stored.as_mut().unwrap());
                assert!(redis.replication_id == self.replication_id.to_string(), "Redis rejects it: {redis:?}");
                assert!(
                    !may_have_opened(&RedisEvent { now: self.now, ..redis.clone() }),
                    "Redis rejects it: {redis:?}"
                );
                assert!(redis.gate != Gate::Closed && redis.issued == 0, "Redis rejects it: {redis:?}");
                assert!(!event.is_opening_final, "Postgres rejects it: {event:?}");
                (redis.gate, redis.generation) = (Gate::Loading, desired.generation);
                (event.opens_at, event.starts_at) = (None, None);
                self.applied.0 = Gate::Loading;
            }
            Step::SetGate(opening) => {
                let redis = self.redis.as_ref().unwrap();
                let leaves_loading = redis.gate == Gate::Loading && matches!(opening.gate, Gate::Open | Gate::Paused);
                assert!(
                    !leaves_loading
                        || (redis.loaded == opening.total && redis.available + redis.issued == opening.total),
                    "Redis rejects it: {redis:?}, {opening:?}"
                );
                let keeps_release = opening.gate == Gate::Closed;
                self.set_gate(opening, keeps_release);
            }
            Step::RemoveStockEpoch(stock_epoch) => {
                assert_eq!(self.redis.take().map(|redis| redis.stock_epoch), Some(stock_epoch));
            }
            Step::DiscardStock => {
                let event = self.stored.as_mut().unwrap();
                assert_eq!(event.opens_at, None, "Postgres rejects it");
                event.discount_counts.clear();
                event.stock_epoch += 1;
            }
            Step::ClosePredecessor(..) | Step::RemovePredecessor(_) => unreachable!("the model has no other event"),
            Step::RecordStranded => unreachable!("everything is recorded"),
            Step::Retire => unreachable!("no manifest has a ttl"),
        }
    }

    /// Restores Redis from Postgres, which has everything that was returned.
    fn recover(&mut self, desired: &DesiredState) {
        let stored = self.stored.as_ref().unwrap();
        let (loaded, issued) = (stored.generated(), self.returned);
        let settings = recovered_gate_settings(desired, stored);
        let redis = self.redis.as_mut().unwrap();
        *redis = RedisEvent {
            loaded,
            available: loaded - issued,
            issued,
            cancelled: 0,
            marked_recorded: issued,
            replication_id: self.replication_id.to_string(),
            ..redis.clone()
        };
        self.set_gate(settings, false);
    }

    fn set_gate(&mut self, settings: GateSettings, keeps_release: bool) {
        let redis = self.redis.as_mut().unwrap();
        let gate = if redis.gate == Gate::Closed { Gate::Closed } else { settings.gate };
        let GateSettings { window, acknowledge, generation, .. } = settings;
        *redis = RedisEvent { gate, window, acknowledge, generation, ..redis.clone() };
        if !keeps_release {
            redis.validity = settings.validity;
            redis.release = settings.release;
            redis.admission_key = settings.admission_key;
        }
        self.applied = (gate, window);
    }

    /// As `restrict_gate.rs` does.
    fn restrict_gate(&mut self, desired: &DesiredState) {
        let gate = match desired.issuance {
            IssuingMode::Auto => return,
            IssuingMode::Paused => Gate::Paused,
            IssuingMode::Closed => Gate::Closed,
        };
        if let Some(redis) = self.redis.as_mut().filter(|redis| redis.gate == Gate::Open) {
            redis.window.end = [redis.window.end, desired.window.end].into_iter().flatten().min();
            (redis.gate, redis.generation) = (gate, redis.generation.max(desired.generation));
            self.applied = (gate, redis.window);
        }
    }

    /// The event, if its coupons are being issued.
    fn open_event(&mut self) -> Option<&mut RedisEvent> {
        let redis = self.redis.as_mut().filter(|redis| redis.replication_id == self.replication_id.to_string())?;
        let is_open = redis.window.state(redis.gate, self.now) == couponry_domain::WindowState::Open;
        let stored = self.stored.as_ref().filter(|_| is_open)?;
        assert_eq!((redis.gate, redis.window), self.applied, "coupons are issued by settings that were replaced");
        assert_eq!(redis.release, stored.release, "Postgres has another release");
        assert_eq!(redis.admission_key, stored.admission_key(), "Redis has another key");
        let current = Self::answer(redis);
        assert_eq!(self.told.as_ref().unwrap_or(&current), &current, "the release or the start has changed");
        Some(redis)
    }

    /// What the answers to users depend on: without a ramp, they do not depend on the start.
    fn answer(redis: &RedisEvent) -> (Release, Option<i64>) {
        (redis.release.clone(), redis.window.start.filter(|_| redis.release.ramp_seconds.is_some()))
    }

    fn wait(&mut self) {
        if let Some(redis) = self.open_event()
            && redis.release != Release::default()
        {
            self.told = Some(Self::answer(redis));
        }
    }

    fn request(&mut self, users: u64) {
        if let Some(redis) = self.open_event() {
            let issued = users.min(redis.available);
            redis.available -= issued;
            redis.issued += issued;
            if issued > 0 {
                let redis = redis.clone();
                let stored = self.stored.as_ref().unwrap();
                assert_eq!(redis.validity, stored.terms.validity, "Postgres has another validity");
                assert!(self.returned == 0 || self.validity == redis.validity, "the validity has changed");
                self.told = Some(Self::answer(&redis));
                self.validity = redis.validity;
            }
            self.returned += issued;
        }
    }

    fn check(&self) {
        let opens_at = self.stored.as_ref().and_then(|event| event.opens_at);
        let len = self.stored.as_ref().map_or(0, StoredEvent::generated);
        if let Some(redis) = &self.redis {
            let is_current = self.stored.as_ref().is_some_and(|event| event.stock_epoch == redis.stock_epoch);
            assert!(redis.loaded <= len || !is_current, "Redis holds coupons that are not in Postgres");
            if redis.gate == Gate::Open && redis.replication_id == self.replication_id.to_string() {
                assert!(opens_at.is_some(), "the opening is stored before the gate opens");
            }
        }
        if let (Some((release, _)), Some(stored)) = (&self.told, &self.stored) {
            assert_eq!(*release, stored.release, "the release has changed");
        }
        if self.returned > 0 {
            assert!(opens_at.is_some(), "coupons were issued without an opening");
            assert!(len >= self.returned, "the stock was discarded after coupons were issued");
            let verified = self.redis.as_ref().filter(|redis| redis.replication_id == self.replication_id.to_string());
            assert!(verified.is_none_or(|redis| redis.issued == self.returned), "coupons can be issued again");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn random_actions_lose_no_coupon_and_converge_to_the_manifest(
        actions in proptest::collection::vec(action(), 1..40),
    ) {
        let mut desired = desired(10);
        let mut model = Model {
            stored: None,
            redis: None,
            now: NOW,
            returned: 0,
            validity: None,
            told: None,
            applied: (Gate::Loading, Window::default()),
            snapshots: Vec::new(),
            replication_id: 1,
        };
        for action in actions {
            model.snapshots.extend(model.redis.clone());
            // The API server rejects these once the status has openedAt, which the operator may write late.
            let opened = model.returned > 0;
            match action {
                Action::Total(total) if !opened || total >= desired.total => desired.total = total,
                Action::Start(start) if !opened => desired.window.start = start,
                // Changes of an open event are also made, because the operator checks them itself.
                Action::ValidDays(days) => {
                    desired.terms = days.map(|days| valid_for(&format!("P{days}D"))).unwrap_or_default();
                }
                Action::Release(ramp_seconds, drop) => {
                    let drops = drop.map(|at| StockDrop { at, count: 1 });
                    desired.release = Release { ramp_seconds, drops: Drops::new(drops.into_iter().collect()).unwrap() };
                }
                Action::Total(_) | Action::Start(_) => continue,
                Action::Issuance(_) if desired.issuance == IssuingMode::Closed => continue,
                Action::Issuance(issuance) => desired.issuance = issuance,
                Action::TimePasses(time) => model.now += time,
                Action::ClockJumps(time) => {
                    model.now += time;
                    // Users who wait leave no trace in the stores, only in the clock, until the opening is final.
                    if model.returned == 0 && !model.stored.as_ref().is_some_and(|event| event.is_opening_final) {
                        model.told = None;
                    }
                }
                Action::UsersRequest(users) => model.request(users),
                Action::UsersWait => model.wait(),
                Action::RestrictGate => model.restrict_gate(&desired),
                Action::RedisLosesData => model.redis = None,
                Action::RedisRestarts => model.replication_id += 1,
                Action::RedisFailsOver(coupons) => {
                    model.replication_id += 1;
                    if let Some(redis) = &mut model.redis {
                        let lost = coupons.min(redis.issued);
                        (redis.issued, redis.available) = (redis.issued - lost, redis.available + lost);
                    }
                }
                Action::RedisRollsBack(index) => {
                    if !model.snapshots.is_empty() {
                        model.replication_id += 1;
                        model.redis = Some(index.get(&model.snapshots).clone());
                    }
                }
                Action::Steps(steps) => {
                    for _ in 0..steps {
                        let Plan::Apply(step) = plan(&desired, &model.observe()) else { break };
                        model.apply(step, &desired);
                        model.check();
                        model.snapshots.extend(model.redis.clone());
                    }
                    continue;
                }
            }
            desired.generation += 1;
            model.check();
        }

        let mut steps = 0;
        let end = loop {
            match plan(&desired, &model.observe()) {
                Plan::Apply(step) => model.apply(step, &desired),
                end => break end,
            }
            model.check();
            steps += 1;
            prop_assert!(steps < 60, "the plan does not converge: {model:?}");
        };
        let redis = model.redis.as_ref();
        match end {
            Plan::Done if redis.is_some_and(|redis| redis.gate == Gate::Closed) => {}
            Plan::Done => {
                let redis = redis.unwrap();
                prop_assert_eq!(redis.loaded, desired.total);
                prop_assert_eq!(model.stored.as_ref().unwrap().generated(), desired.total);
                prop_assert_eq!(redis.gate == Gate::Open, desired.issuance == IssuingMode::Auto);
                prop_assert_eq!(redis.window, desired.window);
                prop_assert_eq!(&redis.validity, &desired.terms.validity);
                prop_assert_eq!(&redis.release, &desired.release);
            }
            Plan::Blocked(blocker) => prop_assert_eq!(blocker.reason, reason::CHANGE_NOT_POSSIBLE),
            Plan::Apply(_) | Plan::AwaitCodes(_) => unreachable!(),
        }
    }
}
