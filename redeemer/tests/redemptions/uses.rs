//! The records of the uses of coupons.

use std::collections::HashMap;

use couponry_domain::code::CouponCode;
use couponry_kafka::read_all;
use couponry_postgres::SendOutcome;
use couponry_testbed::Kafka;
use serde_json::{Value, json};

use crate::support::{Redeemer, World, body, until};

/// The records of each coupon in their order, with duplicates.
async fn records(world: &World) -> HashMap<String, Vec<Value>> {
    let mut records = HashMap::<_, Vec<_>>::new();
    for message in read_all(&world.used).await.unwrap() {
        let value: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(message.key.as_deref(), value["couponKey"].as_str().map(str::as_bytes));
        assert_eq!(message.version(), Some(&b"1"[..]));
        records.entry(value["couponKey"].as_str().unwrap().to_owned()).or_default().push(value);
    }
    records
}

async fn wait_until_all_are_sent(world: &World) {
    until("all uses are sent", async || {
        world.database.send_uses(1, async |_| false).await.unwrap() == SendOutcome::Empty
    })
    .await;
}

/// Reserves, releases and redeems a new coupon of each of these users.
async fn use_coupons(world: &World, server: &Redeemer, users: std::ops::Range<u32>) -> Vec<CouponCode> {
    let mut coupons = Vec::new();
    for user in users.map(|user| format!("u{user}")) {
        let coupon = world.issue_and_record(&user).await;
        for (operation, order) in [("reserve", "A"), ("release", "A"), ("redeem", "B")] {
            let response = server.post(operation, &format!("{user}-{operation}"), &body(&coupon, &user, order)).await;
            assert_eq!(response.status, 200, "{response:?}");
        }
        coupons.push(coupon);
    }
    coupons
}

#[tokio::test]
async fn uses_are_sent_once_in_order_by_one_of_several_redeemers() {
    let world = World::open(30).await;
    world.create_used_topic().await;
    let servers = [world.ready_redeemer().await, world.ready_redeemer().await];
    let (first, second) =
        tokio::join!(use_coupons(&world, &servers[0], 0..15), use_coupons(&world, &servers[1], 15..30));
    wait_until_all_are_sent(&world).await;
    let records = records(&world).await;
    for coupon in first.iter().chain(&second) {
        let kinds: Vec<_> = records[coupon.as_str()].iter().map(|record| record["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["RESERVED", "RELEASED", "REDEEMED"]);
    }
    let (entry, _) = world.database.coupon_history(world.uid, &first[0]).await.unwrap().remove(0);
    let expected = json!({
        "eventId": "summer", "eventUid": world.uid, "couponKey": first[0].as_str(), "userId": "u0", "seq": 1,
        "kind": "RESERVED", "orderId": "A", "reservedUntil": entry.until, "at": entry.at,
    });
    assert_eq!(records[first[0].as_str()][0], expected);
    let mut sent = 0;
    for server in &servers {
        let metrics = server.metrics().await;
        let total = metrics.lines().find_map(|line| line.strip_prefix("couponry_redeemer_uses_sent_total ")).unwrap();
        sent += total.parse::<u32>().unwrap();
    }
    assert_eq!(sent, 90);
}

#[tokio::test]
async fn coupons_are_redeemed_during_an_outage_of_kafka_and_their_uses_sent_after_it() {
    let kafka = Kafka::start().unwrap();
    let mut world = World::open(10).await;
    world.used.brokers = kafka.brokers();
    world.create_used_topic().await;
    let server = world.ready_redeemer().await;
    kafka.kill9().unwrap();
    let coupons = use_coupons(&world, &server, 0..10).await;
    until("the outage is reported", async || {
        let (status, text) = server.readiness().await;
        status == 200 && text.contains("kafka: ")
    })
    .await;
    until("the waiting uses are reported", async || {
        server.metrics().await.contains("couponry_redeemer_unsent_uses 30")
    })
    .await;
    kafka.restart().unwrap();
    wait_until_all_are_sent(&world).await;
    let records = records(&world).await;
    for coupon in &coupons {
        // A record can be sent again.
        let mut sequence: Vec<_> = records[coupon.as_str()].iter().map(|record| record["seq"].as_u64()).collect();
        sequence.sort_unstable();
        sequence.dedup();
        assert_eq!(sequence, [Some(1), Some(2), Some(3)], "{records:?}");
    }
    until("nothing waits", async || server.metrics().await.contains("couponry_redeemer_unsent_uses 0")).await;
}

#[tokio::test]
async fn uses_are_sent_again_after_a_crash_before_they_are_deleted() {
    let world = World::open(10).await;
    world.create_used_topic().await;
    let server = world.ready_redeemer().await;
    server.running.kill9().unwrap();
    let failpoint = "database.before-sent-uses-are-deleted=return";
    server.running.restart_with(&[("FAILPOINTS".to_owned(), failpoint.to_owned())]).unwrap();
    server.wait_until_ready().await;
    let coupon = world.issue_and_record("u1").await;
    // The crash can come before the response.
    let order = body(&coupon, "u1", "A");
    drop(server.send(server.request("redeem", Some("1"), &order)).await);
    server.running.process().wait().unwrap();
    assert_eq!(records(&world).await[coupon.as_str()].len(), 1);
    server.running.restart().unwrap();
    server.wait_until_ready().await;
    wait_until_all_are_sent(&world).await;
    let records = records(&world).await;
    let records = &records[coupon.as_str()];
    assert_eq!((records.len(), &records[0]), (2, &records[1]), "{records:?}");
}
