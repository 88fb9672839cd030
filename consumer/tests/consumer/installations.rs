//! Two installations on one topic and with the same group, as with the default settings.

use couponry_domain::Uuid;

use crate::support::World;

const RECORDS: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn consumers_skip_the_records_of_another_installation() {
    let first = World::open(RECORDS as u64).await;
    let mut second = World::open(RECORDS as u64).await;
    (second.kafka, second.group) = (first.kafka.clone(), first.group.clone());
    let (records, others) = (first.issue(0..RECORDS).await, second.issue(0..RECORDS).await);
    for (own, other) in records.chunks(10).zip(others.chunks(10)) {
        first.publish(own).await;
        second.publish(other).await;
    }

    let consumers = [first.consumer(&[]), second.consumer(&[])];
    for (world, records) in [(&first, &records), (&second, &others)] {
        world.wait_until_recorded(RECORDS).await;
        world.wait_until_committed().await;
        world.assert_exactly_once(records).await;
    }
    for consumer in &consumers {
        assert_eq!(consumer.metric("couponry_consumer_foreign_records_total"), RECORDS as u64);
        assert!(consumer.running.log().contains("skipping records of another installation"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_refuses_a_redis_of_another_installation() {
    let world = World::open(10).await;
    let other = Uuid::new_v4();
    assert_eq!(world.redis_store.claim_installation(other).await.unwrap(), other);
    let consumer = world.consumer(&[]);
    consumer.wait_until_not_ready(&format!("Redis belongs to the installation {other}")).await;
    world.publish(&world.issue(0..10).await).await;
    consumer.wait_until_not_ready("installation").await;
    assert_eq!(world.recorded().await, 0);
}
