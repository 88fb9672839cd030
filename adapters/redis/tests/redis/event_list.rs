//! The list of all events, and whether it is verified.

use couponry_domain::EventName;
use couponry_redis::RedisStore;
use couponry_testbed::{Redis, redis::command};

/// An event that Redis has lost, or never had, may exist until the list is verified.
#[tokio::test]
async fn event_list_is_unverified_after_each_loss_of_data() {
    let redis = Redis::start().unwrap();
    let redis_store = RedisStore::connect(&redis.url(), "").unwrap();
    let (open, unknown): (EventName, EventName) = ("open".parse().unwrap(), "unknown".parse().unwrap());
    let states = async || {
        let is_verified = redis_store.is_event_list_verified().await.unwrap();
        (is_verified, redis_store.may_exist(&open).await.unwrap(), redis_store.may_exist(&unknown).await.unwrap())
    };
    assert_eq!(states().await, (false, true, true), "an empty Redis");
    // More names than the values that Lua can unpack.
    let names: Vec<String> = (0..9000).map(|i| format!("event-{i}")).chain(["open".to_owned()]).collect();
    redis_store.verify_event_list(&names).await.unwrap();
    assert_eq!(states().await, (true, true, false));
    assert_eq!(redis_store.events().await.unwrap().len(), names.len());

    command(&redis.url(), &["FLUSHALL"]).unwrap();
    // The first of several events is restored.
    redis_store.prepare(&"event-1".parse().unwrap(), uuid(), 0).await.unwrap();
    assert_eq!(states().await, (false, true, true), "a Redis without its data");
    redis_store.verify_event_list(&names).await.unwrap();
    assert_eq!(states().await, (true, true, false));

    redis.kill9().unwrap();
    redis.restart().unwrap();
    while redis_store.ping().await.is_err() {}
    assert_eq!(states().await, (false, true, true), "after a restart, perhaps with older data");
    redis_store.verify_event_list(["open"]).await.unwrap();
    assert_eq!(states().await, (true, true, false));
    let members = command(&redis.url(), &["SCARD", "couponEvents"]).unwrap();
    assert_eq!(members, format!(":{}\r\n", names.len() + 1), "one mark");
}

fn uuid() -> couponry_domain::Uuid {
    couponry_domain::Uuid::new_v4()
}
