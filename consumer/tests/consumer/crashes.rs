//! Consumers that end in the middle of their work, and consumers side by side.

use crate::support::{World, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_consumer_loses_nothing_and_records_nothing_twice() {
    const COUNT: usize = 12_000;
    let world = World::open(COUNT as u64).await;
    let records = world.issue(0..COUNT).await;
    world.write(&records).await;

    // Small batches, so that there is a middle to be killed in.
    let consumer = world.consumer(&["--batch-size", "25"]);
    for part in [COUNT / 8, COUNT / 2] {
        world.recorded_reaches(part).await;
        consumer.running.kill9().unwrap();
        let recorded = world.recorded().await;
        let settled = world.stock.observe(&world.event).await.unwrap().unwrap().completed;
        println!("killed -9: {recorded} of {COUNT} in Postgres, {settled} completed in Redis");
        assert!(recorded < COUNT, "it was to be killed in the middle");
        consumer.running.restart().unwrap();
    }
    world.all_is_committed().await;
    println!("at the end: {} of {COUNT} in Postgres", world.recorded().await);
    world.assert_exactly_once(&records).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_told_to_end_finishes_its_batch_and_makes_room_at_once() {
    const COUNT: usize = 6_000;
    let world = World::open(COUNT as u64).await;
    let records = world.issue(0..COUNT).await;
    world.write(&records).await;
    let first = world.consumer(&["--batch-size", "200"]);
    world.recorded_reaches(COUNT / 6).await;
    first.running.stop().unwrap();
    let log = first.running.log();
    assert!(first.running.process().exited().unwrap().unwrap().success(), "{log}");
    assert!(log.contains("the consumer ends"), "{log}");

    let recorded = world.recorded().await;
    println!("stopped: {recorded} of {COUNT} in Postgres");
    let second = world.consumer(&[]);
    second.ready().await;
    world.all_is_committed().await;
    world.assert_exactly_once(&records).await;
    // All that the first had recorded was also committed.
    assert_eq!(second.metric("couponry_consumer_recorded_total"), (COUNT - recorded) as u64);
    assert_eq!(second.metric("couponry_consumer_already_recorded_total"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_of_ours_ends_the_process_and_loses_nothing() {
    let world = World::open(10).await;
    let records = world.issue(0..10).await;
    let consumer = world.consumer(&[]);
    consumer.running.stop().unwrap();
    let failpoints = |what: &str| [("FAILPOINTS".to_owned(), what.to_owned())];
    consumer.running.restart_with(&failpoints("consumer.after-record=panic")).unwrap();
    world.write(&records).await;
    until("the process has ended", async || consumer.running.process().exited().unwrap().is_some()).await;
    assert!(!consumer.running.process().exited().unwrap().unwrap().success());
    consumer.running.restart_with(&failpoints("")).unwrap();
    world.all_is_committed().await;
    world.assert_exactly_once(&records).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_side_by_side_share_the_work_also_when_one_is_killed() {
    const PART: usize = 3_000;
    let world = World::open(5 * PART as u64).await;
    let consumers = [world.consumer(&["--batch-size", "100"]), world.consumer(&["--batch-size", "100"])];
    for consumer in &consumers {
        consumer.ready().await;
    }
    let share = |n: usize| consumers[n].metric("couponry_consumer_recorded_total");
    let mut records = Vec::new();
    // Written until both have got something: joining the group takes its time.
    for part in 0..3 {
        let more = world.issue(part * PART..(part + 1) * PART).await;
        world.write(&more).await;
        records.extend(more);
        world.recorded_reaches(records.len()).await;
    }
    until("both have partitions", async || {
        consumers.iter().all(|consumer| consumer.running.log().contains("partitions assigned partitions=["))
    })
    .await;
    let more = world.issue(3 * PART..4 * PART).await;
    world.write(&more).await;
    records.extend(more);
    world.recorded_reaches(records.len()).await;
    println!("the two recorded {} and {}", share(0), share(1));
    assert!(share(0) > 0 && share(1) > 0);

    let more = world.issue(4 * PART..5 * PART).await;
    world.write(&more).await;
    records.extend(more);
    consumers[0].running.kill9().unwrap();
    println!("one killed -9: {} of {} in Postgres", world.recorded().await, records.len());
    world.all_is_committed().await;
    world.assert_exactly_once(&records).await;
}
