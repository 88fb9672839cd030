//! Changes of an event's keys in Redis that Couponry never makes.

use anyhow::Result;
use couponry_testbed::redis;

use super::event::Event;

/// A value that Couponry does not write.
const FOREIGN: &str = "foreign";

/// Removes this value, also where it was issued to users. KEYS: couponQueue, couponIssued. ARGV: the value.
const REMOVE_UNDECODABLE: &str = "
    redis.call('LREM', KEYS[1], 0, ARGV[1])
    local entries = redis.call('HGETALL', KEYS[2])
    for i = 1, #entries, 2 do
      if string.sub(entries[i + 1], 1, #ARGV[1]) == ARGV[1] then
        redis.call('HDEL', KEYS[2], entries[i])
      end
    end";

/// The keys of which one is replaced.
const KINDS: [&str; 3] = ["couponIssued", "couponQueue", "couponOutbox"];

fn key(kind: &str, event: &Event) -> String {
    format!("{kind}:{{{}}}", event.name)
}

/// The kind of key with this index, modulo their number.
pub(super) fn kind(index: u64) -> &'static str {
    KINDS[usize::try_from(index % KINDS.len() as u64).unwrap_or(0)]
}

/// Replaces a key by one of another type, and keeps its data. A key without data does not exist.
pub(super) fn replace(url: &str, event: &Event, kind: &str) -> Result<()> {
    let key = key(kind, event);
    let script = "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('RENAME', KEYS[1], KEYS[2]) end
        redis.call('SET', KEYS[1], ARGV[1])";
    redis::command(url, &["EVAL", script, "2", &key, &format!("{key}:kept"), FOREIGN]).map(drop)
}

/// Undoes [`replace`].
pub(super) fn restore(url: &str, event: &Event, kind: &str) -> Result<()> {
    let key = key(kind, event);
    let script = "redis.call('DEL', KEYS[1])
        if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('RENAME', KEYS[2], KEYS[1]) end";
    redis::command(url, &["EVAL", script, "2", &key, &format!("{key}:kept")]).map(drop)
}

/// Adds a coupon and an entry that cannot be decoded. The next user receives that coupon.
pub(super) fn add_undecodable(url: &str, event: &Event) -> Result<()> {
    redis::command(url, &["LPUSH", &key("couponQueue", event), FOREIGN])?;
    redis::command(url, &["HSET", &key("couponIssued", event), FOREIGN, FOREIGN]).map(drop)
}

/// Removes what [`add_undecodable`] has added, and what was issued of it.
pub(super) fn remove_undecodable(url: &str, event: &Event) -> Result<()> {
    let (queue, issued) = (key("couponQueue", event), key("couponIssued", event));
    redis::command(url, &["EVAL", REMOVE_UNDECODABLE, "2", &queue, &issued, FOREIGN]).map(drop)
}
