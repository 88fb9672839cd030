//! Crashes and shutdowns of consumers, and consumer groups.

use crate::support::{World, until};

#[tokio::test(flavor = "multi_thread")]
async fn killed_consumer_records_each_issuance_exactly_once() {
    const COUNT: usize = 12_000;
    let world = World::open(COUNT as u64).await;
    let records = world.issue(0..COUNT).await;
    world.publish(&records).await;

    // Small batches, so that the consumer is killed between two of them.
    let consumer = world.consumer(&["--max-batch", "25"]);
    for part in [COUNT / 8, COUNT / 2] {
        world.wait_until_recorded(part).await;
        consumer.running.kill9().unwrap();
        let recorded = world.recorded().await;
        let settled = world.redis_store.observe(&world.event).await.unwrap().unwrap().marked_recorded;
        println!("killed -9: {recorded} of {COUNT} in Postgres, {settled} completed in Redis");
        assert!(recorded < COUNT, "the consumer must be killed before the end");
        consumer.running.restart().unwrap();
    }
    world.wait_until_committed().await;
    println!("at the end: {} of {COUNT} in Postgres", world.recorded().await);
    world.assert_exactly_once(&records).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn graceful_shutdown_commits_the_batch_and_leaves_the_group() {
    const COUNT: usize = 6_000;
    let world = World::open(COUNT as u64).await;
    let records = world.issue(0..COUNT).await;
    world.publish(&records).await;
    let first = world.consumer(&["--max-batch", "200"]);
    world.wait_until_recorded(COUNT / 6).await;
    first.running.stop().unwrap();
    let log = first.running.log();
    assert!(first.running.process().exited().unwrap().unwrap().success(), "{log}");
    assert!(log.contains("consumer stopped"), "{log}");

    let recorded = world.recorded().await;
    println!("stopped: {recorded} of {COUNT} in Postgres");
    let second = world.consumer(&[]);
    second.wait_until_ready().await;
    world.wait_until_committed().await;
    world.assert_exactly_once(&records).await;
    // The first consumer committed everything that it recorded.
    assert_eq!(second.metric("couponry_consumer_recorded_total"), (COUNT - recorded) as u64);
    assert_eq!(second.metric("couponry_consumer_already_recorded_total"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn panic_ends_the_process_and_loses_no_record() {
    let world = World::open(10).await;
    let records = world.issue(0..10).await;
    let consumer = world.consumer(&[]);
    consumer.running.stop().unwrap();
    let failpoints = |what: &str| [("FAILPOINTS".to_owned(), what.to_owned())];
    consumer.running.restart_with(&failpoints("consumer.after-record=panic")).unwrap();
    world.publish(&records).await;
    until("the process has ended", async || consumer.running.process().exited().unwrap().is_some()).await;
    assert!(!consumer.running.process().exited().unwrap().unwrap().success());
    consumer.running.restart_with(&failpoints("")).unwrap();
    world.wait_until_committed().await;
    world.assert_exactly_once(&records).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_group_shares_partitions_and_survives_a_kill() {
    const PART: usize = 3_000;
    let world = World::open(5 * PART as u64).await;
    let consumers = [world.consumer(&["--max-batch", "100"]), world.consumer(&["--max-batch", "100"])];
    for consumer in &consumers {
        consumer.wait_until_ready().await;
    }
    let share = |n: usize| consumers[n].metric("couponry_consumer_recorded_total");
    let mut records = Vec::new();
    // Several rounds, until both consumers have joined the group.
    for part in 0..3 {
        let more = world.issue(part * PART..(part + 1) * PART).await;
        world.publish(&more).await;
        records.extend(more);
        world.wait_until_recorded(records.len()).await;
    }
    until("both have partitions", async || {
        consumers.iter().all(|consumer| consumer.running.log().contains("partitions assigned partitions=["))
    })
    .await;
    let more = world.issue(3 * PART..4 * PART).await;
    world.publish(&more).await;
    records.extend(more);
    world.wait_until_recorded(records.len()).await;
    println!("the two recorded {} and {}", share(0), share(1));
    assert!(share(0) > 0 && share(1) > 0);

    let more = world.issue(4 * PART..5 * PART).await;
    world.publish(&more).await;
    records.extend(more);
    consumers[0].running.kill9().unwrap();
    println!("one killed -9: {} of {} in Postgres", world.recorded().await, records.len());
    world.wait_until_committed().await;
    world.assert_exactly_once(&records).await;
}
