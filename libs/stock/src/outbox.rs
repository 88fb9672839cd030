//! The outbox: what was issued and is not yet known to be in Kafka.
//!
//! An entry is written by the same atomic step that gives the coupons, and deleted when the broker has confirmed all of its
//! records. So whoever dies in between, the entry is still there, and any issuer can send it again: at least once, never lost.

use std::time::Duration;

use domain::{EventId, IssuedRecord, Uuid};
use redis::streams::{StreamId, StreamRangeReply};

use crate::{
    connection::{Stock, StockError, failed},
    holding::{parse_records, parse_uid, unreadable},
};

/// What one call issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEntry {
    /// Its id in the stream; the part before the dash is when it was written, in milliseconds by Redis's clock.
    pub id: String,
    /// The issued records.
    pub records: Vec<IssuedRecord>,
}

impl Stock {
    /// Deletes entries whose records Kafka has confirmed. Ids that are gone already are passed over.
    pub async fn confirm(&self, event: &EventId, ids: &[String]) -> Result<(), StockError> {
        if ids.is_empty() {
            return Ok(());
        }
        redis::cmd("XDEL")
            .arg(self.keys(event).outbox)
            .arg(ids)
            .query_async::<()>(&mut self.connection())
            .await
            .map_err(failed("delete confirmed outbox entries"))
    }

    /// Up to `count` entries, oldest first, that were written longer than `age` ago, by Redis's clock. `after` is the id of
    /// the last entry seen, to page on.
    pub async fn left_behind(
        &self,
        event: &EventId,
        age: Duration,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<OutboxEntry>, StockError> {
        const OPERATION: &str = "read the outbox";
        let (seconds, micros): (u64, u64) =
            redis::cmd("TIME").query_async(&mut self.connection()).await.map_err(failed(OPERATION))?;
        let until = Duration::new(seconds, 0) + Duration::from_micros(micros);
        let reply: StreamRangeReply = redis::cmd("XRANGE")
            .arg(self.keys(event).outbox)
            .arg(after.map_or_else(|| "-".to_owned(), |id| format!("({id}")))
            .arg(until.saturating_sub(age).as_millis().to_string())
            .arg("COUNT")
            .arg(count)
            .query_async(&mut self.connection())
            .await
            .map_err(failed(OPERATION))?;
        reply.ids.into_iter().map(|entry| read_entry(OPERATION, event, &entry)).collect()
    }

    /// Takes, or keeps, the role of the one issuer that sends what others left behind, for `lease`. Whether `issuer` has it.
    pub async fn sweep_as(&self, event: &EventId, issuer: Uuid, lease: Duration) -> Result<bool, StockError> {
        (self.scripts.sweeper)
            .key(self.keys(event).sweeper)
            .arg(issuer.to_string())
            .arg(u64::try_from(lease.as_millis()).unwrap_or(u64::MAX))
            .invoke_async(&mut self.connection())
            .await
            .map_err(failed("take the sweeper's role"))
    }
}

fn read_entry(operation: &'static str, event: &EventId, entry: &StreamId) -> Result<OutboxEntry, StockError> {
    let uid: Option<String> = entry.get("uid");
    let records: Option<String> = entry.get("records");
    let (Some(uid), Some(records)) = (uid, records) else {
        return Err(unreadable(operation, &format!("outbox entry {}", entry.id)));
    };
    let uid = parse_uid(operation, &uid)?;
    let records =
        parse_records(operation, &records)?.iter().map(|(user, holding)| holding.record(event, uid, user)).collect();
    Ok(OutboxEntry { id: entry.id.clone(), records })
}
