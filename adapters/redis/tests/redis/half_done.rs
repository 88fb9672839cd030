//! No script is half done: a call that fails has written nothing.

use std::{collections::BTreeMap, time::Duration};

use couponry_domain::{Gate, IssuedCoupon, UserId, Uuid, Window};
use couponry_redis::{
    FencedWrite, GateSettings, IssuedEntry, IssuedStatus, Recovered, RedisStore, RedisStoreError, Settlement,
    SettlementOutcome,
};
use couponry_testbed::{Redis, redis::command};

use crate::support::{coupons, gate_settings, mark_verified, record_all, users};

const KEYS: [&str; 5] = ["couponMeta", "couponQueue", "couponIssued", "couponOutbox", "couponSweeper"];

/// A Redis with two users: one with all permissions, and `limited`, whose permissions the tests change.
struct World {
    redis: Redis,
    admin: RedisStore,
    limited: RedisStore,
}

/// A prepared event and what its call needs.
struct Event {
    id: couponry_domain::EventName,
    uid: Uuid,
    /// Two users with pending coupons, one with a cancelled one, one without a coupon.
    users: Vec<UserId>,
    pending: Vec<IssuedCoupon>,
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Prepare,
    Load,
    Restore,
    Open,
    Close,
    ResetGate,
    Issue,
    Settle,
    Resend,
    Confirm,
    Sweep,
    BeginRecovery,
    MarkVerified,
    MarkRecovered,
    Retire,
    Remove,
    RequestRestore,
}

const CALLS: [Call; 17] = [
    Call::Prepare,
    Call::Load,
    Call::Restore,
    Call::Open,
    Call::Close,
    Call::ResetGate,
    Call::Issue,
    Call::Settle,
    Call::Resend,
    Call::Confirm,
    Call::Sweep,
    Call::BeginRecovery,
    Call::MarkVerified,
    Call::MarkRecovered,
    Call::Retire,
    Call::Remove,
    Call::RequestRestore,
];

impl World {
    async fn start() -> Self {
        let redis = Redis::start().unwrap();
        let user = ["ACL", "SETUSER", "limited", "on", ">s3cret", "~*", "+@all"];
        command(&redis.url(), &user).unwrap();
        let limited = redis.url().replace("redis://", "redis://limited:s3cret@");
        let world = Self {
            admin: RedisStore::connect(&redis.url(), "").unwrap(),
            limited: RedisStore::connect(&limited, "").unwrap(),
            redis,
        };
        // The connections are established before the permissions change.
        world.limited.ping().await.unwrap();
        world
    }

    /// Creates the state that the call needs.
    async fn event(&self, call: Call, number: usize) -> Event {
        let redis_store = &self.admin;
        let (id, uid) = (format!("event-{number}").parse().unwrap(), Uuid::new_v4());
        let users = users(0..4);
        let mut event = Event { id, uid, users, pending: Vec::new() };
        if matches!(call, Call::Prepare) {
            return event;
        }
        let Event { id, uid, users, pending } = &mut event;
        assert_eq!(redis_store.prepare(id, *uid, 0).await.unwrap(), FencedWrite::Applied(()));
        mark_verified(redis_store, id).await;
        redis_store.load(id, *uid, 0, &coupons(0, 10)).await.unwrap();
        if matches!(call, Call::Open | Call::ResetGate) {
            return event;
        }
        redis_store.set_gate(id, *uid, &gate_settings(Gate::Open, Window::default(), 10)).await.unwrap();
        let reply = redis_store.issue(id, &users[..3]).await.unwrap().unwrap();
        *pending = reply.outbox.unwrap().records.into_iter().map(|record| record.issued).collect();
        let outcome = SettlementOutcome::Cancelled { requeue: true };
        let cancelled = Settlement { user: users[2].clone(), coupon: pending[2].coupon.clone(), outcome };
        redis_store.settle(id, *uid, &[cancelled]).await.unwrap();
        match call {
            Call::Retire => {
                let closed = GateSettings { generation: 2, ..gate_settings(Gate::Closed, Window::default(), 10) };
                redis_store.set_gate(id, *uid, &closed).await.unwrap();
                record_all(redis_store, id, *uid).await;
            }
            // As after a restart.
            Call::Restore | Call::BeginRecovery | Call::MarkVerified | Call::MarkRecovered => {
                record_all(redis_store, id, *uid).await;
                command(&self.redis.url(), &["HSET", &key("couponMeta", &event), "replicationId", "other"]).unwrap();
            }
            _ => {}
        }
        event
    }

    async fn call(
        &self,
        redis_store: &RedisStore,
        call: Call,
        event: &Event,
        after: &Prepared,
    ) -> Result<(), RedisStoreError> {
        let Event { id, uid, users, pending } = event;
        match call {
            Call::Prepare => redis_store.prepare(id, *uid, 0).await.map(drop),
            Call::Load => redis_store.load(id, *uid, 0, &coupons(10, 5)).await.map(drop),
            Call::Restore => {
                let Prepared::Recovery(observed, recovery) = after else { panic!() };
                let issued = IssuedEntry { issued: pending[0].clone(), status: IssuedStatus::Completed };
                redis_store.restore(id, observed, recovery, 0..10, &coupons(0, 9), &[issued]).await.map(drop)
            }
            Call::Open => {
                redis_store.set_gate(id, *uid, &gate_settings(Gate::Open, Window::default(), 10)).await.map(drop)
            }
            Call::Close => {
                redis_store.set_gate(id, *uid, &gate_settings(Gate::Closed, Window::default(), 10)).await.map(drop)
            }
            Call::ResetGate => {
                let Prepared::Observed(observed) = after else { panic!() };
                redis_store.reset_gate(id, observed, 2).await.map(drop)
            }
            Call::Issue => redis_store.issue(id, &users[1..]).await.map(drop),
            Call::Settle => {
                let queue = self.admin.scan_queue(id).await.unwrap_or_default().pop();
                let (coupon, discount) = queue.unwrap_or((pending[2].coupon.clone(), pending[2].discount));
                let by = IssuedCoupon { user_id: users[0].clone(), coupon, discount, issued_at: 1 };
                let settlement = |i: usize, outcome| {
                    let IssuedCoupon { user_id, coupon, .. } = pending[i].clone();
                    Settlement { user: user_id, coupon, outcome }
                };
                let settlements = [
                    settlement(0, SettlementOutcome::Replaced { by, requeue: true }),
                    settlement(1, SettlementOutcome::Completed),
                ];
                redis_store.settle(id, *uid, &settlements).await.map(drop)
            }
            Call::Resend => {
                let entry = IssuedEntry { issued: pending[0].clone(), status: IssuedStatus::Pending };
                redis_store.add_to_outbox(id, *uid, &[entry]).await
            }
            Call::Confirm => {
                let Prepared::Ids(ids) = after else { panic!() };
                redis_store.delete_confirmed(id, ids).await
            }
            Call::Sweep => {
                redis_store.acquire_sweeper_lease(id, Uuid::new_v4(), Duration::from_hours(1)).await.map(drop)
            }
            Call::BeginRecovery => {
                let Prepared::Recovery(observed, _) = after else { panic!() };
                redis_store.begin_recovery(id, observed, true).await.map(drop)
            }
            Call::MarkVerified => {
                let Prepared::Recovery(observed, _) = after else { panic!() };
                redis_store.mark_verified(id, observed, None).await.map(drop)
            }
            Call::MarkRecovered => {
                let Prepared::Recovery(observed, recovery) = after else { panic!() };
                let found = Recovered {
                    recovery: recovery.clone(),
                    issued_at_min: 1,
                    total: 10,
                    settings: gate_settings(Gate::Open, Window::default(), 10),
                };
                redis_store.mark_verified(id, observed, Some(&found)).await.map(drop)
            }
            Call::Retire => redis_store.retire(id, *uid, 0, 2).await.map(drop),
            Call::Remove => redis_store.remove(id, *uid).await.map(drop),
            Call::RequestRestore => {
                let Prepared::Observed(observed) = after else { panic!() };
                redis_store.request_restore(id, observed).await.map(drop)
            }
        }
    }

    /// What the call needs to know about the event.
    async fn prepare(&self, call: Call, event: &Event) -> Prepared {
        let redis_store = &self.admin;
        match call {
            Call::Confirm => {
                let listed = redis_store.list_unconfirmed(&event.id, Duration::ZERO, None, 10).await.unwrap();
                Prepared::Ids(listed.entries.into_iter().map(|entry| entry.id).collect())
            }
            Call::ResetGate | Call::RequestRestore => {
                Prepared::Observed(redis_store.observe(&event.id).await.unwrap().unwrap())
            }
            Call::Restore | Call::BeginRecovery | Call::MarkVerified | Call::MarkRecovered => {
                let observed = redis_store.observe(&event.id).await.unwrap().unwrap();
                let clear = matches!(call, Call::Restore);
                let begun = redis_store.begin_recovery(&event.id, &observed, clear).await.unwrap();
                let FencedWrite::Applied(recovery) = begun else { panic!("nothing to recover") };
                Prepared::Recovery(redis_store.observe(&event.id).await.unwrap().unwrap(), recovery)
            }
            _ => Prepared::Nothing,
        }
    }

    /// All keys of the event, as Redis serializes them.
    fn dump(&self, event: &Event) -> BTreeMap<&'static str, Option<Vec<u8>>> {
        let mut connection = redis::Client::open(self.redis.url()).unwrap().get_connection().unwrap();
        let dump = |kind| redis::cmd("DUMP").arg(key(kind, event)).query(&mut connection).unwrap();
        let mut dump = dump;
        KEYS.into_iter().map(|kind| (kind, dump(kind))).collect()
    }

    fn allow(&self, rules: &[&str]) {
        let reset = ["ACL", "SETUSER", "limited", "+@all"];
        command(&self.redis.url(), &[&reset, rules].concat()).unwrap();
    }
}

enum Prepared {
    Nothing,
    Ids(Vec<couponry_redis::OutboxId>),
    Observed(couponry_redis::RedisEvent),
    Recovery(couponry_redis::RedisEvent, couponry_redis::Recovery),
}

fn key(kind: &str, event: &Event) -> String {
    format!("{kind}:{{{}}}", event.id)
}

/// Every command that a script calls.
fn commands() -> Vec<String> {
    let mut commands = Vec::new();
    for script in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lua")).unwrap() {
        let text = std::fs::read_to_string(script.unwrap().path()).unwrap();
        let called = text.split("redis.call('").skip(1).map(|call| call.split('\'').next().unwrap().to_lowercase());
        commands.extend(called);
    }
    commands.sort();
    commands.dedup();
    commands
}

#[tokio::test]
async fn script_with_denied_command_writes_nothing() {
    let world = World::start().await;
    let (mut number, mut failures) = (0, Vec::new());
    for call in CALLS {
        let (mut denied, mut succeeded) = (0, 0);
        for command in commands() {
            number += 1;
            let event = world.event(call, number).await;
            let prepared = world.prepare(call, &event).await;
            let before = world.dump(&event);
            world.allow(&[&format!("-{command}")]);
            let result = world.call(&world.limited, call, &event, &prepared).await;
            world.allow(&[]);
            let after = world.dump(&event);
            let is_changed = after != before;
            match result {
                // The script has removed everything. What follows it is repeated by the next call.
                Err(_) if after.values().all(Option::is_none) && is_changed => denied += 1,
                Ok(()) if !is_changed => failures.push(format!("{call:?} without {command}: no effect")),
                Err(_) if is_changed => failures.push(format!("{call:?} without {command}: half done")),
                Ok(()) => succeeded += 1,
                Err(_) => denied += 1,
            }
        }
        assert!(denied > 0 && succeeded > 0, "{call:?}: {denied} denied, {succeeded} succeeded");
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[tokio::test]
async fn script_with_key_of_wrong_type_writes_nothing() {
    let world = World::start().await;
    let (mut number, mut failed, mut failures) = (0, 0, Vec::new());
    for call in CALLS {
        for kind in KEYS {
            number += 1;
            let event = world.event(call, number).await;
            let prepared = world.prepare(call, &event).await;
            let name = key(kind, &event);
            command(&world.redis.url(), &["DEL", &name]).unwrap();
            command(&world.redis.url(), &["PFADD", &name, "wrong"]).unwrap();
            if kind == "couponSweeper" {
                command(&world.redis.url(), &["DEL", &name]).unwrap();
                command(&world.redis.url(), &["LPUSH", &name, "wrong"]).unwrap();
            }
            let before = world.dump(&event);
            let result = world.call(&world.admin, call, &event, &prepared).await;
            let is_changed = world.dump(&event) != before;
            failed += u32::from(result.is_err());
            if result.is_err() && is_changed {
                failures.push(format!("{call:?} with a wrong {kind}: half done"));
            }
        }
    }
    assert!(failed > 15, "only {failed} calls failed");
    assert!(failures.is_empty(), "{failures:#?}");
}

#[tokio::test]
async fn script_with_too_many_arguments_writes_nothing() {
    let world = World::start().await;
    let event = world.event(Call::Restore, 0).await;
    let Prepared::Recovery(observed, recovery) = world.prepare(Call::Restore, &event).await else { panic!() };
    let before = world.dump(&event);
    let issued: Vec<_> = users(0..4500)
        .into_iter()
        .map(|user_id| {
            let issued = IssuedCoupon { user_id, ..event.pending[0].clone() };
            IssuedEntry { issued, status: IssuedStatus::Completed }
        })
        .collect();
    let restored = world.admin.restore(&event.id, &observed, &recovery, 0..4510, &coupons(0, 10), &issued).await;
    assert!(restored.is_err() && world.dump(&event) == before, "{restored:?}");

    let event = world.event(Call::Load, 1).await;
    world.admin.load(&event.id, event.uid, 0, &coupons(10, 5000)).await.unwrap();
    let before = world.dump(&event);
    let mut connection = redis::Client::open(world.redis.url()).unwrap().get_connection().unwrap();
    let mut issue = redis::cmd("EVAL");
    issue.arg(include_str!("../../src/lua/issue.lua")).arg(4);
    for kind in &KEYS[..4] {
        issue.arg(key(kind, &event));
    }
    for number in 0..4500 {
        issue.arg(format!("new-{number}"));
    }
    assert!(issue.exec(&mut connection).is_err());
    assert_eq!(world.dump(&event), before);
}

/// Closing, settling and verifying must work when the memory is used up; issuing must not begin.
#[tokio::test]
async fn full_redis_issues_nothing_and_closes() {
    let world = World::start().await;
    let mut events = Vec::new();
    for (number, call) in CALLS.into_iter().enumerate() {
        let event = world.event(call, number).await;
        let prepared = world.prepare(call, &event).await;
        events.push((call, event, prepared));
    }
    command(&world.redis.url(), &["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    for (call, event, prepared) in &events {
        let before = world.dump(event);
        let result = world.call(&world.admin, *call, event, prepared).await;
        let is_changed = world.dump(event) != before;
        if matches!(call, Call::Issue | Call::Load | Call::Restore | Call::Prepare) {
            assert!(result.is_err() && !is_changed, "{call:?}: {result:?}");
        } else {
            assert!(result.is_ok() && is_changed, "{call:?}: {result:?}");
        }
    }
    let paused = world.event_is_paused(&events[5].1).await;
    assert!(paused, "an event is paused while Redis is full");
}

impl World {
    async fn event_is_paused(&self, event: &Event) -> bool {
        let settings = GateSettings { generation: 2, ..gate_settings(Gate::Paused, Window::default(), 10) };
        self.admin.set_gate(&event.id, event.uid, &settings).await.unwrap() == FencedWrite::Applied(Gate::Paused)
    }
}
