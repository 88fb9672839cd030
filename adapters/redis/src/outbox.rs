//! The outbox: entries with records that Kafka has not confirmed.
//!
//! # Guarantees
//! The atomic step that issues coupons writes the entry with their records. It is deleted after the brokers have
//! confirmed all of them. If an issuer is killed in between, the sweeper of another one sends the entry: delivery is
//! at-least-once, and no record is lost.

use std::{collections::HashMap, sync::Arc, time::Duration};

use couponry_domain::{EventName, IssuedCoupon, IssuedRecord, Uuid, Validity};
use redis::streams::{StreamId, StreamRangeReply};

use crate::{
    error::{RedisStoreError, invalid_value},
    issued_entry::{parse_installation, parse_records, parse_uid, parse_validity},
    key::EventKeys,
    redis_store::RedisStore,
};

/// The most entries per script call.
const MAX_CONFIRMED: usize = 1000;

/// Identifies an outbox entry. Redis may assign the same stream id again after a loss of data; the incarnation of the
/// outbox distinguishes them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OutboxId {
    /// The id in the stream. The part before the dash is the time at which the entry was written, in milliseconds by
    /// the clock of Redis.
    pub id: Arc<str>,
    /// The replication id of the Redis and the recovery id of the event when the entry was written or read.
    pub(crate) incarnation: Arc<str>,
}

/// The records of one issue call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEntry {
    /// Its id.
    pub id: OutboxId,
    /// The installation of the event, if it is known.
    pub installation: Option<Uuid>,
    /// The records of the issued coupons.
    pub records: Vec<IssuedRecord>,
    /// How many records this version cannot decode. Their values are also in `couponIssued`, where they stay.
    pub undecodable: usize,
}

/// A page of entries that Kafka has not confirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnconfirmedEntries {
    /// The entries.
    pub entries: Vec<OutboxEntry>,
    /// The ids of entries that no version writes: without the uid or the records. They stay in the outbox.
    pub undecodable: Vec<String>,
    /// The id of the last entry of the page, parsed or not, with which the next page is read. None: this was the last
    /// page.
    pub last: Option<String>,
}

impl RedisStore {
    /// Deletes entries whose records Kafka has confirmed. Idempotent. Entries of an earlier incarnation of the outbox
    /// are ignored.
    pub async fn delete_confirmed(&self, event: &EventName, ids: &[OutboxId]) -> Result<(), RedisStoreError> {
        let mut by_incarnation: HashMap<&str, Vec<&str>> = HashMap::new();
        for OutboxId { id, incarnation } in ids {
            by_incarnation.entry(incarnation).or_default().push(id);
        }
        for (incarnation, ids) in by_incarnation {
            for ids in ids.chunks(MAX_CONFIRMED) {
                let keys = self.keys(event);
                (self.scripts.delete_confirmed)
                    .key(keys.meta)
                    .key(keys.outbox)
                    .arg(incarnation)
                    .arg(ids)
                    .invoke_async::<u64>(&mut self.connection())
                    .await
                    .map_err(self.failed("cannot delete confirmed outbox entries in Redis"))?;
            }
        }
        Ok(())
    }

    /// Returns up to `count` entries that are older than `age` by the clock of Redis, oldest first. `after` is the
    /// [`UnconfirmedEntries::last`] of the previous page.
    ///
    /// While this Redis is not verified, entries of any age are returned: it issues nothing, and its recovery waits for
    /// them.
    ///
    /// Entries whose ids are more than `age` in the future are included, because their age is unknown.
    pub async fn list_unconfirmed(
        &self,
        event: &EventName,
        age: Duration,
        after: Option<&str>,
        count: usize,
    ) -> Result<UnconfirmedEntries, RedisStoreError> {
        const OPERATION: &str = "cannot read the outbox from Redis";
        let EventKeys { meta, outbox, .. } = self.keys(event);
        let state = self.scripts.outbox_state.key(meta).key(&outbox).invoke_async(&mut self.connection()).await;
        // Read before the entries: if the incarnation changes in between, they are not deleted, but sent again.
        let (now, is_verified, incarnation, installation, validity): (u64, bool, String, String, String) =
            state.map_err(self.failed(OPERATION))?;
        let installation = parse_installation(Some(installation));
        let validity = parse_validity(OPERATION, Some(&validity))?;
        let age = if is_verified { milliseconds(age) } else { 0 };
        let incarnation = Arc::from(incarnation);
        let range = async |from: String, to: String, count: usize| {
            let reply: Result<StreamRangeReply, _> = redis::cmd("XRANGE")
                .arg(&outbox)
                .arg(from)
                .arg(to)
                .arg("COUNT")
                .arg(count)
                .query_async(&mut self.connection())
                .await;
            reply.map(|reply| reply.ids).map_err(self.failed(OPERATION))
        };
        let from = after.map_or_else(|| "-".to_owned(), |id| format!("({id}"));
        let mut found = range(from.clone(), now.saturating_sub(age).to_string(), count).await?;
        if found.len() < count {
            // The ids of a stream never decrease, even after it was emptied. If the clock of Redis was ahead at some
            // time, new entries continue from that time until the clock has reached it, perhaps for years.
            let future = now.saturating_add(age).saturating_add(1);
            let is_in_future = after.and_then(written_at).is_some_and(|at| at >= future);
            let from = if is_in_future { from } else { future.to_string() };
            found.extend(range(from, "+".to_owned(), count - found.len()).await?);
        }

        let last = found.last().map(|entry| entry.id.clone());
        let mut page = UnconfirmedEntries { last, ..UnconfirmedEntries::default() };
        for entry in found {
            match parse_entry(OPERATION, event, &entry, &incarnation, installation, validity.as_ref()) {
                Ok(parsed) => page.entries.push(parsed),
                Err(_) => page.undecodable.push(entry.id),
            }
        }
        Ok(page)
    }

    /// Acquires or renews the sweeper lease of the event: its holder sends the entries of other issuers that Kafka has
    /// not confirmed. Returns whether `issuer` holds the lease.
    pub async fn acquire_sweeper_lease(
        &self,
        event: &EventName,
        issuer: Uuid,
        duration: Duration,
    ) -> Result<bool, RedisStoreError> {
        (self.scripts.acquire_lease)
            .key(self.keys(event).sweeper)
            .arg(issuer.to_string())
            .arg(milliseconds(duration))
            .invoke_async(&mut self.connection())
            .await
            .map_err(self.failed("cannot acquire the sweeper lease in Redis"))
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The time in an entry's id, in milliseconds.
fn written_at(id: &str) -> Option<u64> {
    id.split('-').next()?.parse().ok()
}

fn parse_entry(
    operation: &'static str,
    event: &EventName,
    entry: &StreamId,
    incarnation: &Arc<str>,
    installation: Option<Uuid>,
    validity: Option<&Validity>,
) -> Result<OutboxEntry, RedisStoreError> {
    let uid: Option<String> = entry.get("uid");
    let records: Option<Vec<u8>> = entry.get("records");
    let (Some(uid), Some(records)) = (uid, records) else {
        return Err(invalid_value(operation, &format!("outbox entry {}", entry.id)));
    };
    let event_uid = parse_uid(operation, &uid)?;
    let (issued, undecodable) = parse_records(&records);
    let record = |issued: IssuedCoupon| {
        let valid_until = validity.map(|validity| validity.valid_until(issued.issued_at));
        IssuedRecord { event_id: event.clone(), event_uid, issued, valid_until }
    };
    let records = issued.into_iter().map(record).collect();
    let id = OutboxId { id: entry.id.as_str().into(), incarnation: incarnation.clone() };
    Ok(OutboxEntry { id, installation, records, undecodable })
}
