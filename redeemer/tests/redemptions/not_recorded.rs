//! Coupons that are used before a consumer has recorded their issuance.

use axum::http::StatusCode;
use couponry_domain::IssuedRecord;
use couponry_postgres::RecordOutcome;
use couponry_testbed::{Redis, shared};
use futures::future::join_all;

use crate::support::{World, body, until};

fn order(record: &IssuedRecord, order: &str) -> serde_json::Value {
    body(&record.issued.coupon, record.issued.user_id.as_str(), order)
}

#[tokio::test]
async fn redemption_before_the_record_records_the_issuance() {
    let world = World::open(10).await;
    let server = world.ready_redeemer().await;
    let record = world.issue("u1").await;
    let redeemed = server.post("redeem", "1", &order(&record, "order-1")).await;
    assert_eq!((redeemed.status, redeemed.state()), (StatusCode::OK, "REDEEMED"), "{redeemed:?}");
    let recorded = world.database.issuance_of(world.uid, &record.issued.user_id).await.unwrap().unwrap();
    assert_eq!(recorded.issued, record.issued);
    // The record from Kafka arrives later.
    assert_eq!(world.database.record(&[record]).await.unwrap(), [RecordOutcome::AlreadyRecorded]);
    assert!(server.metrics().await.contains("couponry_redeemer_issuances_recorded_total 1"));

    // All operations find such a coupon.
    let record = world.issue("u2").await;
    assert_eq!(server.validate(&order(&record, "order-2")).await.state(), "ISSUED");
    let record = world.issue("u3").await;
    let without_user = server.coupon(&record.issued.coupon).await;
    assert_eq!((without_user.status, without_user.problem()), (StatusCode::NOT_FOUND, "coupon-not-recorded"));
    let path = format!("/redemptions/summer/{}?userId=u3", record.issued.coupon);
    assert_eq!(server.get(&path).await.state(), "ISSUED");
    assert_eq!(server.coupon(&record.issued.coupon).await.state(), "ISSUED");
}

#[tokio::test]
async fn redeemers_and_consumers_that_record_the_same_issuance_have_one_effect() {
    let world = World::open(20).await;
    let server = world.ready_redeemer().await;
    for i in 0..20 {
        let record = world.issue(&format!("u{i}")).await;
        let requests = join_all((0..8).map(|n| {
            let (server, order) = (&server, order(&record, &format!("order-{n}")));
            async move { server.post("redeem", &format!("{i}-{n}"), &order).await }
        }));
        let records = [record.clone()];
        let consumers = join_all((0..3).map(|_| world.database.record(&records)));
        let (responses, outcomes) = tokio::join!(requests, consumers);
        for outcome in outcomes {
            let outcome = outcome.unwrap().remove(0);
            assert!(matches!(outcome, RecordOutcome::Recorded | RecordOutcome::AlreadyRecorded), "{outcome:?}");
        }
        let redeemed = responses.iter().filter(|response| response.status == StatusCode::OK).count();
        let refused = responses.iter().filter(|response| response.problem() == "coupon-redeemed").count();
        assert_eq!((redeemed, refused), (1, 7), "{responses:?}");
    }
    assert_eq!(world.database.recorded_count(world.uid).await.unwrap(), 20);
}

#[tokio::test]
async fn coupon_that_redis_has_not_issued_to_the_user_is_unknown() {
    let world = World::open(10).await;
    let server = world.ready_redeemer().await;
    let (first, second) = (world.issue("u1").await, world.issue("u2").await);
    // The coupon of another user, by users with and without a coupon.
    for user in ["u2", "u3"] {
        let response = server.post("redeem", user, &body(&first.issued.coupon, user, "order-1")).await;
        assert_eq!((response.status, response.problem()), (StatusCode::NOT_FOUND, "unknown-coupon"), "{user}");
    }
    assert_eq!(world.database.recorded_count(world.uid).await.unwrap(), 0);
    for record in [first, second] {
        let user = record.issued.user_id.as_str();
        let redeemed = server.post("redeem", &format!("{user}-redeem"), &order(&record, "order-1")).await;
        assert_eq!(redeemed.state(), "REDEEMED");
    }
}

#[tokio::test]
async fn coupon_is_unavailable_while_redis_cannot_prove_whether_it_was_issued() {
    let redis = Redis::start().unwrap();
    let postgres = couponry_testbed::Database::create().unwrap();
    let world = World::on(&postgres.url(), &redis.url(), 10).await;
    let server = world.ready_redeemer().await;
    let recorded = world.issue_and_record("u1").await;
    let record = world.issue("u2").await;

    redis.kill9().unwrap();
    server.post("redeem", "1", &order(&record, "order-1")).await.assert_unavailable();
    server.validate(&order(&record, "order-1")).await.assert_unavailable();
    // A recorded coupon does not need Redis.
    assert_eq!(server.post("redeem", "2", &body(&recorded, "u1", "order-1")).await.state(), "REDEEMED");
    until("the outage is reported", async || server.readiness().await.1.contains("redis: ")).await;
    assert_eq!(server.readiness().await.0, 200);

    redis.restart().unwrap();
    until("the redeemer has reached Redis again", async || {
        let response = server.post("redeem", "1", &order(&record, "order-1")).await;
        response.assert_unavailable();
        !server.readiness().await.1.contains("redis: ")
    })
    .await;
    // Not verified after the restart.
    server.post("redeem", "1", &order(&record, "order-1")).await.assert_unavailable();
    world.verify_redis().await;
    let redeemed = server.post("redeem", "1", &order(&record, "order-1")).await;
    assert_eq!(redeemed.state(), "REDEEMED", "{redeemed:?}");

    // A Redis that has lost the event.
    let lost = world.issue("u3").await;
    couponry_testbed::redis::command(&redis.url(), &["FLUSHALL"]).unwrap();
    server.post("redeem", "3", &order(&lost, "order-1")).await.assert_unavailable();
    // A deleted event that Redis does not have any more.
    world.database.mark_resource_deleted(world.uid, &world.event).await.unwrap();
    assert_eq!(server.post("redeem", "3", &order(&lost, "order-1")).await.problem(), "unknown-coupon");
}

/// The operator marks an event as deleted before it removes the event from Redis, and after a timeout also with
/// unrecorded issuances.
#[tokio::test]
async fn coupon_of_a_deleted_event_that_redis_still_has_is_recorded() {
    let world = World::open(10).await;
    let server = world.ready_redeemer().await;
    let record = world.issue("u1").await;
    world.database.mark_resource_deleted(world.uid, &world.event).await.unwrap();
    assert_eq!(server.post("redeem", "1", &order(&record, "order-1")).await.state(), "REDEEMED");
    let unknown = server.post("redeem", "2", &body(&record.issued.coupon, "u2", "order-1")).await;
    assert_eq!(unknown.problem(), "wrong-user");
}

#[tokio::test]
async fn coupon_of_an_event_with_the_same_name_is_not_recorded_for_another_one() {
    let world = World::open(10).await;
    let server = world.ready_redeemer().await;
    let record = world.issue("u1").await;
    // Postgres has another event of this name, as after a re-creation of the CouponEvent.
    let other = World::on(&world.postgres, &shared::redis(), 10).await;
    world.database.mark_resource_deleted(world.uid, &world.event).await.unwrap();
    server.post("redeem", "1", &order(&record, "order-1")).await.assert_unavailable();
    assert_eq!(world.database.recorded_count(other.uid).await.unwrap(), 0);
}
