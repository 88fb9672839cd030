//! Issuing.

use std::{collections::HashSet, time::Duration};

use crate::support::{Event, SOLD_OUT, chain, coupons, gate_settings, mark_verified, users};
use couponry_domain::{Gate, IssuedCoupon, UserId, Validity, Window};
use couponry_redis::{GateSettings, IssueOutcome, IssuedEntry, IssuedStatus, RedisStore};
use futures::future;
use redis::Commands;

fn issued(outcome: &IssueOutcome) -> &IssuedCoupon {
    match outcome {
        IssueOutcome::Issued(issued) => issued,
        other => panic!("not issued: {other:?}"),
    }
}

/// The entry of a coupon that was just issued.
fn pending(outcome: &IssueOutcome) -> IssuedEntry {
    IssuedEntry { issued: issued(outcome).clone(), status: IssuedStatus::Pending }
}

#[tokio::test]
async fn issue_follows_shuffled_order_until_sold_out() {
    let event = Event::open(10).await;
    let reply = event.redis_store.issue(&event.id, &users(0..12)).await.unwrap().unwrap();
    assert_eq!(reply.event_uid, event.uid);
    let codes: Vec<_> = reply.outcomes[..10].iter().map(|o| issued(o).coupon.clone()).collect();
    let generated: Vec<_> = coupons(0, 10).into_iter().map(|c| c.code).collect();
    assert_eq!(codes, generated);
    assert_eq!(reply.outcomes[10..], [SOLD_OUT, SOLD_OUT]);
    let records = reply.outbox.unwrap().records;
    assert_eq!(records.len(), 10);
    assert_eq!(records[3].issued.user_id.as_str(), "user-3");
    assert_eq!(records[3].issued.coupon, generated[3]);
}

#[tokio::test]
async fn event_is_sold_out_from_the_issue_of_its_last_coupon_until_a_top_up() {
    let event = Event::open(10).await;
    let observe = async || event.redis_store.observe(&event.id).await.unwrap().unwrap();
    let issue = async |range| event.redis_store.issue(&event.id, &users(range)).await.unwrap().unwrap();
    issue(0..9).await;
    assert_eq!(observe().await.sold_out_at, None);
    // The batch takes exactly what is left.
    let last = issued(&issue(9..10).await.outcomes[0]).issued_at;
    assert_eq!(observe().await.sold_out_at, Some(last));
    assert_eq!(issue(10..12).await.outcomes, [SOLD_OUT, SOLD_OUT]);
    assert_eq!(observe().await.sold_out_at, Some(last), "a rejected request does not change it");

    event.load(10, 3).await;
    assert_eq!(observe().await.sold_out_at, None);
    // The batch needs more than is left.
    let reply = issue(20..24).await;
    assert_eq!(reply.outcomes[3], SOLD_OUT);
    assert_eq!(observe().await.sold_out_at, Some(issued(&reply.outcomes[0]).issued_at));
}

#[tokio::test]
async fn repeated_issue_returns_same_coupon_also_after_close() {
    let event = Event::open(1).await;
    let first = event.redis_store.issue(&event.id, &users(0..1)).await.unwrap().unwrap();
    let entry = pending(&first.outcomes[0]);
    for gate in [Gate::Open, Gate::Paused, Gate::Closed] {
        event.gate(gate, Window::default(), 1).await;
        let again = event.redis_store.issue(&event.id, &users(0..1)).await.unwrap().unwrap();
        assert_eq!(again.outcomes, [IssueOutcome::Duplicate(entry.clone())]);
        assert!(again.outbox.is_none());
    }
    assert_eq!(event.redis_store.lookup(&event.id, &users(0..1)[0]).await.unwrap().unwrap().entry, Some(entry));
}

#[tokio::test]
async fn records_and_lookups_have_validity_of_event() {
    let event = Event::open(10).await;
    let unlimited = event.redis_store.issue(&event.id, &users(0..1)).await.unwrap().unwrap();
    assert_eq!((unlimited.validity, unlimited.outbox.unwrap().records[0].valid_until), (None, None));
    assert_eq!(event.redis_store.lookup(&event.id, &users(0..1)[0]).await.unwrap().unwrap().validity, None);

    let event = Event::open(10).await;
    let validity: Validity = "P1M Asia/Seoul end-of-day".parse().unwrap();
    let settings =
        GateSettings { validity: Some(validity.clone()), ..gate_settings(Gate::Open, Window::default(), 10) };
    event.redis_store.set_gate(&event.id, event.uid, &settings).await.unwrap();
    let reply = event.redis_store.issue(&event.id, &users(0..2)).await.unwrap().unwrap();
    let valid_until = Some(validity.valid_until(issued(&reply.outcomes[0]).issued_at));
    let sent = reply.outbox.unwrap().records;
    assert_eq!((reply.valid_until, sent[0].valid_until, sent[1].valid_until), (valid_until, valid_until, valid_until));
    assert_eq!(reply.validity.as_ref(), Some(&validity));

    // Closing does not know the validity, and what is in the outbox is still to be sent.
    event.gate(Gate::Closed, Window::default(), 10).await;
    let observed = event.redis_store.observe(&event.id).await.unwrap().unwrap();
    assert_eq!((observed.gate, observed.validity.as_ref()), (Gate::Closed, Some(&validity)));
    let unconfirmed = event.redis_store.list_unconfirmed(&event.id, Duration::ZERO, None, 10).await.unwrap();
    assert_eq!(unconfirmed.entries[0].records, sent);
    let lookup = event.redis_store.lookup(&event.id, &users(0..1)[0]).await.unwrap().unwrap();
    assert_eq!(lookup.validity, Some(validity));
}

/// As of an event that was opened by an earlier version.
#[tokio::test]
async fn event_without_field_validity_has_unlimited_coupons() {
    let event = Event::open(10).await;
    let meta = format!("test-{}-couponMeta:{{summer}}", event.uid);
    let mut redis = redis::Client::open(couponry_testbed::shared::redis()).unwrap().get_connection().unwrap();
    let deleted: u8 = redis.hdel(&meta, "validity").unwrap();
    assert_eq!(deleted, 1);
    let reply = event.redis_store.issue(&event.id, &users(0..1)).await.unwrap().unwrap();
    assert_eq!((reply.validity, reply.outbox.unwrap().records[0].valid_until), (None, None));
    let unconfirmed = event.redis_store.list_unconfirmed(&event.id, Duration::ZERO, None, 10).await.unwrap();
    assert_eq!(unconfirmed.entries[0].records[0].valid_until, None);
    assert_eq!(event.redis_store.lookup(&event.id, &users(0..1)[0]).await.unwrap().unwrap().validity, None);
    assert_eq!(event.redis_store.observe(&event.id).await.unwrap().unwrap().validity, None);

    let _: u8 = redis.hset(&meta, "validity", "P1D Europe/Atlantis").unwrap();
    let error = event.redis_store.issue(&event.id, &users(1..2)).await.unwrap_err();
    assert!(chain(&error).contains("validity=P1D Europe/Atlantis"), "{error}");
}

#[tokio::test]
async fn lookup_batch_returns_each_entry_and_the_error_of_an_invalid_one() {
    let event = Event::open(10).await;
    let reply = event.redis_store.issue(&event.id, &users(0..2)).await.unwrap().unwrap();
    let issued = format!("test-{}-couponIssued:{{summer}}", event.uid);
    let mut redis = redis::Client::open(couponry_testbed::shared::redis()).unwrap().get_connection().unwrap();
    let _: u8 = redis.hset(&issued, "user-2", b"\xff:x".as_slice()).unwrap();
    // In the order of the call, and a user twice.
    let order: Vec<UserId> = [1, 3, 2, 0, 1].iter().map(|i| users(*i..*i + 1).remove(0)).collect();
    let lookups = event.redis_store.lookup_batch(&event.id, &order).await.unwrap().unwrap();
    let entries: Vec<_> = lookups.iter().map(|lookup| lookup.as_ref().map(|lookup| lookup.entry.clone())).collect();
    let entry = |i: usize| Some(pending(&reply.outcomes[i]));
    assert_eq!(entries[0].as_ref().unwrap(), &entry(1));
    assert_eq!(entries[1].as_ref().unwrap(), &None);
    assert!(chain(*entries[2].as_ref().unwrap_err()).contains("cannot look up users in Redis"));
    assert_eq!(entries[3].as_ref().unwrap(), &entry(0));
    assert_eq!(entries[4].as_ref().unwrap(), &entry(1));
    let many = event.redis_store.lookup_batch(&event.id, &users(0..3000)).await.unwrap().unwrap();
    assert_eq!(many.len(), 3000);
}

#[tokio::test]
async fn user_twice_in_batch_receives_one_coupon() {
    let event = Event::open(10).await;
    let twice = [users(0..1), users(0..1), users(1..2)].concat();
    let reply = event.redis_store.issue(&event.id, &twice).await.unwrap().unwrap();
    let first = pending(&reply.outcomes[0]);
    assert_eq!(reply.outcomes[1], IssueOutcome::Duplicate(first));
    issued(&reply.outcomes[2]);
    assert_eq!(event.redis_store.observe(&event.id).await.unwrap().unwrap().available, 8);
}

#[tokio::test]
async fn issue_checks_window_by_redis_clock() {
    let event = Event::open(10).await;
    let now = event.redis_store.observe(&event.id).await.unwrap().unwrap().now;
    let hour = 3_600_000;
    let mut next_user = 0;
    for (gate, start, end, expected) in [
        (Gate::Open, Some(now + hour), None, IssueOutcome::NotStarted),
        (Gate::Open, None, Some(now), IssueOutcome::Ended),
        (Gate::Open, Some(now - hour), Some(now - 1), IssueOutcome::Ended),
        (Gate::Paused, None, None, IssueOutcome::Paused),
        (Gate::Paused, Some(now + hour), None, IssueOutcome::NotStarted),
        (Gate::Paused, None, Some(now), IssueOutcome::Ended),
    ] {
        event.gate(gate, Window { start, end }, 10).await;
        let reply = event.redis_store.issue(&event.id, &users(next_user..next_user + 2)).await.unwrap().unwrap();
        assert_eq!(reply.outcomes, [expected.clone(), expected], "{gate:?} {start:?} {end:?}");
        next_user += 2;
    }
    event.gate(Gate::Open, Window { start: Some(now - hour), end: Some(now + hour) }, 10).await;
    issued(&event.redis_store.issue(&event.id, &users(50..51)).await.unwrap().unwrap().outcomes[0]);
    assert_eq!(
        event.gate(Gate::Closed, Window::default(), 10).await,
        couponry_redis::FencedWrite::Applied(Gate::Closed)
    );
    assert_eq!(
        event.gate(Gate::Open, Window::default(), 10).await,
        couponry_redis::FencedWrite::Applied(Gate::Closed),
        "a closed gate stays closed"
    );
    let reply = event.redis_store.issue(&event.id, &users(60..61)).await.unwrap().unwrap();
    assert_eq!(reply.outcomes, [IssueOutcome::Ended]);
}

#[tokio::test]
async fn issue_while_loading_returns_not_started() {
    let event = Event::prepared().await;
    event.load(0, 5).await;
    let reply = event.redis_store.issue(&event.id, &users(0..1)).await.unwrap().unwrap();
    assert_eq!(reply.outcomes, [IssueOutcome::NotStarted]);
}

#[tokio::test]
async fn unknown_event_returns_none() {
    let event = Event::prepared().await;
    let other = "winter".parse().unwrap();
    assert!(event.redis_store.issue(&other, &users(0..1)).await.unwrap().is_none());
    assert!(event.redis_store.lookup(&other, &users(0..1)[0]).await.unwrap().is_none());
    assert!(event.redis_store.observe(&other).await.unwrap().is_none());
}

#[tokio::test]
async fn concurrent_issue_issues_each_coupon_once() {
    let event = Event::open(1000).await;
    // 16 callers send the same 1,500 users in different batches: 24,000 requests for 1,000 coupons.
    let callers = (0..16u64).map(|caller| {
        let (redis_store, id) = (event.redis_store.clone(), event.id.clone());
        tokio::spawn(async move {
            let mut holders = Vec::new();
            let mut all = users(0..1500);
            all.rotate_left(usize::try_from(caller).unwrap() * 90);
            for batch in all.chunks(1 + usize::try_from(caller).unwrap() * 13) {
                let reply = redis_store.issue(&id, batch).await.unwrap().unwrap();
                for (user, outcome) in batch.iter().zip(reply.outcomes) {
                    if let IssueOutcome::Issued(issued) = outcome {
                        holders.push((user.clone(), issued.coupon));
                    }
                }
            }
            holders
        })
    });
    let holders: Vec<_> = future::join_all(callers).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(holders.len(), 1000);
    assert_eq!(holders.iter().map(|(user, _)| user).collect::<HashSet<_>>().len(), 1000);
    let codes: HashSet<_> = holders.iter().map(|(_, coupon)| coupon.clone()).collect();
    assert_eq!(codes, coupons(0, 1000).into_iter().map(|c| c.code).collect::<HashSet<_>>());
}

#[tokio::test]
async fn issue_accepts_largest_batch() {
    let event = Event::open(3000).await;
    let reply = event.redis_store.issue(&event.id, &users(0..couponry_redis::MAX_BATCH as u64)).await.unwrap().unwrap();
    assert!(reply.outcomes.iter().all(|outcome| matches!(outcome, IssueOutcome::Issued(_))));
}

#[tokio::test]
async fn user_ids_with_special_characters_are_stored_unchanged() {
    let event = Event::open(10).await;
    let names = [
        ":CANCEL",
        "STOLEN:PERCENT:10:5:COMPLETED",
        r#""},{""#,
        "back\\slash/and/slash",
        "한국어 🎟",
        "{summer}:%s",
        "','x'); DROP TABLE coupon; --",
    ];
    let users: Vec<UserId> = names.iter().map(|name| name.parse().unwrap()).collect();
    let first = event.redis_store.issue(&event.id, &users).await.unwrap().unwrap();
    let again = event.redis_store.issue(&event.id, &users).await.unwrap().unwrap();
    for (one, two) in first.outcomes.iter().zip(&again.outcomes) {
        assert_eq!(two, &IssueOutcome::Duplicate(pending(one)));
    }
    let scanned = event.redis_store.scan_issued(&event.id).await.unwrap();
    assert_eq!(scanned.len(), names.len());
    let left =
        event.redis_store.list_unconfirmed(&event.id, std::time::Duration::ZERO, None, 10).await.unwrap().entries;
    assert_eq!(left, [first.outbox.unwrap()], "the outbox has the same records");
    assert!(users.iter().all(|user| scanned[user].status == IssuedStatus::Pending));
}

/// Redis rejects writes: the script must not have removed a coupon from the queue before.
#[tokio::test]
async fn issue_on_full_redis_fails_without_losing_coupons() {
    let server = couponry_testbed::Redis::start().unwrap();
    let redis_store = RedisStore::connect(&server.url(), "").unwrap();
    let (id, uid) = ("summer".parse().unwrap(), couponry_domain::Uuid::new_v4());
    redis_store.prepare(&id, uid, 0).await.unwrap();
    mark_verified(&redis_store, &id).await;
    redis_store.load(&id, uid, 0, &coupons(0, 10)).await.unwrap();
    redis_store.set_gate(&id, uid, &gate_settings(Gate::Open, Window::default(), 10)).await.unwrap();

    let mut admin = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    let set = |admin: &mut redis::Connection, bytes: u32| {
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).exec(admin).unwrap();
    };
    set(&mut admin, 1);
    let error = chain(&redis_store.issue(&id, &users(0..3)).await.unwrap_err());
    assert!(error.contains("OOM"), "{error}");
    assert_eq!(admin.llen::<_, u64>("couponQueue:{summer}").unwrap(), 10);
    set(&mut admin, 0);
    let reply = redis_store.issue(&id, &users(0..3)).await.unwrap().unwrap();
    assert_eq!(reply.outcomes.iter().filter(|o| matches!(o, IssueOutcome::Issued(_))).count(), 3);
}

#[tokio::test]
async fn undecodable_value_affects_its_user_only() {
    // The second one is not UTF-8.
    for garbage in [&b"what"[..], b"\xff\xfe"] {
        let event = Event::open(4).await;
        let mut admin = redis::Client::open(couponry_testbed::shared::redis()).unwrap().get_connection().unwrap();
        let key = |kind: &str| format!("test-{}-coupon{kind}:{{{}}}", event.uid, event.id);
        redis::cmd("HSET").arg(key("Issued")).arg("user-1").arg(garbage).exec(&mut admin).unwrap();
        redis::cmd("LINSERT")
            .arg(key("Queue"))
            .arg("AFTER")
            .arg(redis::cmd("LINDEX").arg(key("Queue")).arg(0).query::<String>(&mut admin).unwrap())
            .arg(garbage)
            .exec(&mut admin)
            .unwrap();
        let users = users(0..5);
        let reply = event.redis_store.issue(&event.id, &users).await.unwrap().unwrap();
        let undecodable: Vec<_> =
            reply.outcomes.iter().map(|outcome| matches!(outcome, IssueOutcome::Undecodable)).collect();
        // The entry of the second user, and the coupon of the third.
        assert_eq!(undecodable, [false, true, true, false, false], "{:?}", reply.outcomes);
        assert_eq!(reply.outbox.unwrap().records.len(), 3);

        // As another issuer, the operator and the audit read them.
        let left = event.redis_store.list_unconfirmed(&event.id, Duration::ZERO, None, 10).await.unwrap();
        assert_eq!((left.entries[0].records.len(), left.entries[0].undecodable), (3, 1));
        redis::cmd("HSET").arg(key("Issued")).arg(garbage).arg(garbage).exec(&mut admin).unwrap();
        let page = event.redis_store.issued_page(&event.id, 0).await.unwrap();
        assert_eq!((page.entries.len(), page.undecodable.len()), (3, 3));
        let found = event.redis_store.issued_to(&event.id, &users).await.unwrap();
        assert_eq!(found.iter().flatten().filter(|entry| entry.is_err()).count(), 2);
        redis::cmd("RPUSH").arg(key("Queue")).arg(garbage).exec(&mut admin).unwrap();
        let mut available = Vec::new();
        event.redis_store.each_available(&event.id, |item| available.push(item.is_ok())).await.unwrap();
        assert_eq!(available, [false, true]);
    }
}

#[tokio::test]
async fn invalid_fields_of_the_event_issue_nothing() {
    let event = Event::open(10).await;
    let key = format!("test-{}-couponMeta:{{{}}}", event.uid, event.id);
    let mut admin = redis::Client::open(couponry_testbed::shared::redis()).unwrap().get_connection().unwrap();
    let names = ["gate", "start", "end", "uid", "acknowledge"];
    let fields: Vec<String> = redis::cmd("HMGET").arg(&key).arg(&names).query(&mut admin).unwrap();
    let before = event.redis_store.observe(&event.id).await.unwrap();
    for (field, value) in [
        ("gate", Some("paused")),
        ("gate", None),
        ("start", Some("x")),
        ("start", None),
        ("end", Some("x")),
        ("end", None),
        ("uid", Some("x")),
        ("acknowledge", Some("redis")),
    ] {
        match value {
            Some(value) => redis::cmd("HSET").arg(&key).arg(field).arg(value).exec(&mut admin).unwrap(),
            None => redis::cmd("HDEL").arg(&key).arg(field).exec(&mut admin).unwrap(),
        }
        let error = event.redis_store.issue(&event.id, &users(0..1)).await.unwrap_err();
        let text = chain(&error);
        assert!(text.contains("couponMeta has no valid") && text.contains(field), "{field}={value:?}: {text}");
        let error = event.redis_store.observe(&event.id).await.unwrap_err();
        assert!(error.to_string().contains(&format!("{field}={}", value.unwrap_or_default())), "{error}");
        for (field, value) in names.iter().zip(&fields) {
            redis::cmd("HSET").arg(&key).arg(field).arg(value).exec(&mut admin).unwrap();
        }
    }
    let after = event.redis_store.observe(&event.id).await.unwrap();
    assert_eq!(after.map(|after| after.available), before.map(|before| before.available));
    assert!(event.redis_store.issue(&event.id, &users(0..1)).await.unwrap().unwrap().outbox.is_some());
}
