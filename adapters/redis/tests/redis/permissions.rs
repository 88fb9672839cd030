//! Every call that the programs make, with only the documented permissions.

use std::{collections::HashSet, time::Duration};

use couponry_domain::{Gate, IssuedCoupon, Uuid, Window};
use couponry_redis::{FencedWrite, GateSettings, IssueOutcome, RedisStore, Settlement, SettlementOutcome};

use crate::support::{coupons, gate_settings, mark_verified, users};

/// Runs an event from its preparation to its removal.
pub(crate) async fn run_event(redis_store: &RedisStore, name: &str) {
    let (id, uid) = (name.parse().unwrap(), Uuid::new_v4());
    redis_store.ping().await.unwrap();
    assert_eq!(redis_store.prepare(&id, uid, 0).await.unwrap(), FencedWrite::Applied(()));
    mark_verified(redis_store, &id).await;
    for _ in 0..2 {
        assert_eq!(redis_store.load(&id, uid, 0, &coupons(0, 6)).await.unwrap(), FencedWrite::Applied(6));
    }
    assert_eq!(redis_store.load(&id, uid, 0, &coupons(6, 4)).await.unwrap(), FencedWrite::Applied(10));
    let open = gate_settings(Gate::Open, Window::default(), 10);
    assert_eq!(redis_store.set_gate(&id, uid, &open).await.unwrap(), FencedWrite::Applied(Gate::Open));
    assert!(redis_store.events().await.unwrap().contains(&id));

    let three = users(0..3);
    let reply = redis_store.issue(&id, &three).await.unwrap().unwrap();
    assert!(reply.outcomes.iter().all(|outcome| matches!(outcome, IssueOutcome::Issued(_))), "{:?}", reply.outcomes);
    let again = redis_store.issue(&id, &three).await.unwrap().unwrap();
    assert!(again.outcomes.iter().all(|outcome| matches!(outcome, IssueOutcome::Duplicate(_))), "{:?}", again.outcomes);
    assert!(redis_store.lookup(&id, &three[0]).await.unwrap().unwrap().entry.is_some());

    let issuer = Uuid::new_v4();
    assert!(redis_store.acquire_sweeper_lease(&id, issuer, Duration::from_mins(1)).await.unwrap());
    assert!(!redis_store.acquire_sweeper_lease(&id, Uuid::new_v4(), Duration::from_mins(1)).await.unwrap());
    let left = redis_store.list_unconfirmed(&id, Duration::ZERO, None, 10).await.unwrap();
    assert_eq!(left.entries, [reply.outbox.clone().unwrap()]);
    assert_eq!(redis_store.list_unconfirmed(&id, Duration::from_mins(1), None, 10).await.unwrap().entries, []);
    redis_store.delete_confirmed(&id, &[reply.outbox.unwrap().id]).await.unwrap();

    let coupon = |outcome: &IssueOutcome| match outcome {
        IssueOutcome::Duplicate(entry) => entry.issued.coupon.clone(),
        other => panic!("{other:?}"),
    };
    let settlement =
        |i: usize, outcome| Settlement { user: three[i].clone(), coupon: coupon(&again.outcomes[i]), outcome };
    let (coupon, discount) = redis_store.scan_queue(&id).await.unwrap().pop().unwrap();
    let by = IssuedCoupon { user_id: three[1].clone(), coupon, discount, issued_at: 1 };
    let settlements = [
        settlement(0, SettlementOutcome::Completed),
        settlement(1, SettlementOutcome::Replaced { by, requeue: true }),
        settlement(2, SettlementOutcome::Cancelled { requeue: true }),
    ];
    for _ in 0..2 {
        assert!(matches!(redis_store.settle(&id, uid, &settlements).await.unwrap(), FencedWrite::Applied(_)));
    }
    let observed = redis_store.observe(&id).await.unwrap().unwrap();
    assert_eq!(
        (observed.loaded, observed.available, observed.issued, observed.marked_recorded, observed.outbox),
        (10, 8, 2, 2, 0)
    );
    let queue: HashSet<_> = redis_store.scan_queue(&id).await.unwrap().into_iter().map(|(code, _)| code).collect();
    let mut available = HashSet::new();
    redis_store.each_available(&id, |item| available.extend(item.map(|(code, _)| code))).await.unwrap();
    assert_eq!((queue.len(), available), (8, queue));
    assert_eq!(redis_store.scan_issued(&id).await.unwrap().len(), 3);
    assert_eq!(redis_store.issued_to(&id, &three).await.unwrap().len(), 3);

    let closed = GateSettings { generation: 2, ..gate_settings(Gate::Closed, Window::default(), 10) };
    assert_eq!(redis_store.set_gate(&id, uid, &closed).await.unwrap(), FencedWrite::Applied(Gate::Closed));
    assert!(redis_store.remove(&id, uid).await.unwrap());
    assert!(!redis_store.remove(&id, uid).await.unwrap());
    assert_eq!(redis_store.observe(&id).await.unwrap(), None);
    assert!(!redis_store.events().await.unwrap().contains(&id));
}

/// The documented ACL rule, with this password and key pattern, as arguments of a command.
pub(crate) fn acl_rule(password: &str, keys: &str) -> Vec<String> {
    let documented = include_str!("../../../../docs/operate/backends.md");
    let rule = documented.lines().find_map(|line| line.strip_prefix("ACL SETUSER ")).unwrap();
    let rule = rule.replace(">PASSWORD", &format!(">{password}")).replace("~coupon*", &format!("~{keys}"));
    rule.split(' ').map(str::to_owned).collect()
}

#[test]
fn documented_acl_rule_allows_all_commands_of_the_scripts() {
    let rule = acl_rule("", "");
    let scripts = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lua")).unwrap();
    for script in scripts.map(|script| script.unwrap().path()) {
        let text = std::fs::read_to_string(&script).unwrap();
        let commands = text.split("redis.call('").skip(1).map(|call| call.split('\'').next().unwrap().to_lowercase());
        for command in commands {
            assert!(rule.contains(&format!("+{command}")), "{command} of {}", script.display());
        }
    }
}
