//! Everything that the programs ask of Redis, for servers that are not like the shared one.

use std::{collections::HashSet, time::Duration};

use couponry_domain::{Gate, Uuid, Window};
use couponry_redis::{Holding, Loaded, Opening, Outcome, Settlement, SettlementOutcome, Status, Stock};

use crate::support::{adopt, coupons, opening, users};

/// Lives through an event, from its making to its removal.
pub(crate) async fn tell(stock: &Stock, name: &str) {
    let (id, uid) = (name.parse().unwrap(), Uuid::new_v4());
    stock.ping().await.unwrap();
    assert_eq!(stock.prepare(&id, uid, 0).await.unwrap(), Loaded::Here(()));
    adopt(stock, &id).await;
    for _ in 0..2 {
        assert_eq!(stock.load(&id, uid, 0, &coupons(0, 6)).await.unwrap(), Loaded::Here(6));
    }
    assert_eq!(stock.load(&id, uid, 0, &coupons(6, 4)).await.unwrap(), Loaded::Here(10));
    let open = opening(Gate::Open, Window::default(), 10);
    assert_eq!(stock.set_gate(&id, uid, &open).await.unwrap(), Loaded::Here(Gate::Open));
    assert!(stock.events().await.unwrap().contains(&id));

    let three = users(0..3);
    let reply = stock.issue(&id, &three).await.unwrap().unwrap();
    assert!(reply.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Issued(_))), "{:?}", reply.outcomes);
    let again = stock.issue(&id, &three).await.unwrap().unwrap();
    assert!(again.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Duplicate(_))), "{:?}", again.outcomes);
    assert!(stock.lookup(&id, &three[0]).await.unwrap().unwrap().holding.is_some());

    let me = Uuid::new_v4();
    assert!(stock.sweep_as(&id, me, Duration::from_mins(1)).await.unwrap());
    assert!(!stock.sweep_as(&id, Uuid::new_v4(), Duration::from_mins(1)).await.unwrap());
    let left = stock.left_behind(&id, Duration::ZERO, None, 10).await.unwrap();
    assert_eq!(left.entries, [reply.outbox.clone().unwrap()]);
    assert_eq!(stock.left_behind(&id, Duration::from_mins(1), None, 10).await.unwrap().entries, []);
    stock.confirm(&id, &[reply.outbox.unwrap().id]).await.unwrap();

    let coupon = |outcome: &Outcome| match outcome {
        Outcome::Duplicate(holding) => holding.coupon.clone(),
        other => panic!("{other:?}"),
    };
    let settlement =
        |i: usize, outcome| Settlement { user: three[i].clone(), coupon: coupon(&again.outcomes[i]), outcome };
    let (coupon, discount) = stock.scan_queue(&id).await.unwrap().pop().unwrap();
    let by = Holding { coupon, discount, issued_at: 1, status: Status::Completed };
    let settlements = [
        settlement(0, SettlementOutcome::Completed),
        settlement(1, SettlementOutcome::Replaced { by, return_to_stock: true }),
        settlement(2, SettlementOutcome::Cancelled { return_to_stock: true }),
    ];
    for _ in 0..2 {
        assert!(matches!(stock.settle(&id, uid, &settlements).await.unwrap(), Loaded::Here(_)));
    }
    let seen = stock.observe(&id).await.unwrap().unwrap();
    assert_eq!((seen.loaded, seen.available, seen.issued, seen.completed, seen.outbox), (10, 8, 2, 2, 0));
    let queue: HashSet<_> = stock.scan_queue(&id).await.unwrap().into_iter().map(|(code, _)| code).collect();
    let mut available = HashSet::new();
    stock.each_queued(&id, |code, _| available.extend([code])).await.unwrap();
    assert_eq!((queue.len(), available), (8, queue));
    assert_eq!(stock.scan_issued(&id).await.unwrap().len(), 3);
    assert_eq!(stock.holdings_of(&id, &three).await.unwrap().len(), 3);

    let closed = Opening { generation: 2, ..opening(Gate::Closed, Window::default(), 10) };
    assert_eq!(stock.set_gate(&id, uid, &closed).await.unwrap(), Loaded::Here(Gate::Closed));
    assert!(stock.remove(&id, uid).await.unwrap());
    assert!(!stock.remove(&id, uid).await.unwrap());
    assert_eq!(stock.observe(&id).await.unwrap(), None);
    assert!(!stock.events().await.unwrap().contains(&id));
}

/// The rule that the documentation gives for the ACL user, with this password and key pattern, as words of a command.
pub(crate) fn acl_rule(password: &str, keys: &str) -> Vec<String> {
    let documented = include_str!("../../../../docs/operate/backends.md");
    let rule = documented.lines().find_map(|line| line.strip_prefix("ACL SETUSER ")).unwrap();
    let rule = rule.replace(">PASSWORD", &format!(">{password}")).replace("~coupon*", &format!("~{keys}"));
    rule.split(' ').map(str::to_owned).collect()
}

#[test]
fn the_documented_user_may_do_what_the_scripts_do() {
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
