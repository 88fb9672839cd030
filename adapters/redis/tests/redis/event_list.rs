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

#[tokio::test]
async fn verify_with_denied_command_writes_nothing() {
    let redis = Redis::start().unwrap();
    let url = redis.url();
    let admin = RedisStore::connect(&url, "").unwrap();
    admin.verify_event_list(["summer"]).await.unwrap();
    // The mark of an earlier Redis, which a verification removes.
    command(&url, &["SADD", "couponEvents", "verified:0"]).unwrap();
    let members = || {
        let members = command(&url, &["SMEMBERS", "couponEvents"]).unwrap();
        let mut members: Vec<_> = members.lines().map(str::to_owned).collect();
        members.sort();
        members
    };
    command(&url, &["ACL", "SETUSER", "limited", "on", ">s3cret", "~*", "+@all"]).unwrap();
    let limited = RedisStore::connect(&url.replace("redis://", "redis://limited:s3cret@"), "").unwrap();
    limited.ping().await.unwrap();
    let before = members();
    for denied in ["sadd", "srem", "smembers"] {
        command(&url, &["ACL", "SETUSER", "limited", "+@all", &format!("-{denied}")]).unwrap();
        let verified = limited.verify_event_list(["summer", "winter"]).await;
        assert!(verified.is_err() && members() == before, "without {denied}: {verified:?}");
    }
    command(&url, &["ACL", "SETUSER", "limited", "+@all"]).unwrap();
    limited.verify_event_list(["summer", "winter"]).await.unwrap();
    assert_eq!(admin.events().await.unwrap().len(), 2);
}

fn uuid() -> couponry_domain::Uuid {
    couponry_domain::Uuid::new_v4()
}
