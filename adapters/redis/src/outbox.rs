//! The outbox: what was issued and is not yet known to be in Kafka.
//!
//! An entry is written by the same atomic step that gives the coupons, and deleted when the broker has confirmed all of its
//! records. So whoever dies in between, the entry is still there, and any issuer can send it again: at least once, never lost.

use std::time::Duration;

use couponry_domain::{EventName, IssuedRecord, Uuid};
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

/// Some of what was left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanupIncomplete {
    /// What can be sent.
    pub entries: Vec<OutboxEntry>,
    /// The ids of entries that this version cannot read: someone else wrote them. They stay where they are.
    pub unreadable: Vec<String>,
    /// The id of the last entry that was looked at, readable or not, to page on. None: there are no more.
    pub last: Option<String>,
}

impl Stock {
    /// Deletes entries whose records Kafka has confirmed. Ids that are gone already are passed over.
    pub async fn confirm(&self, event: &EventName, ids: &[String]) -> Result<(), StockError> {
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

    /// Up to `count` entries, oldest first, that were written longer than `age` ago, by Redis's clock. `after` is
    /// [`CleanupIncomplete::last`] of the page before.
    ///
    /// Entries from further in the future than `age` are among them, however young they are.
    pub async fn left_behind(
        &self,
        event: &EventName,
        age: Duration,
        after: Option<&str>,
        count: usize,
    ) -> Result<CleanupIncomplete, StockError> {
        const OPERATION: &str = "read the outbox";
        let outbox = self.keys(event).outbox;
        let now = self.scripts.clock.key(&outbox).invoke_async::<u64>(&mut self.connection()).await;
        let (now, age) = (now.map_err(failed(OPERATION))?, millis(age));
        let range = async |from: String, to: String, count: usize| {
            let reply: Result<StreamRangeReply, _> = redis::cmd("XRANGE")
                .arg(&outbox)
                .arg(from)
                .arg(to)
                .arg("COUNT")
                .arg(count)
                .query_async(&mut self.connection())
                .await;
            reply.map(|reply| reply.ids).map_err(failed(OPERATION))
        };
        let from = after.map_or_else(|| "-".to_owned(), |id| format!("({id}"));
        let mut found = range(from.clone(), now.saturating_sub(age).to_string(), count).await?;
        if found.len() < count {
            // The ids of a stream never go back, even when it is empty. When Redis's clock once was ahead, new entries get
            // ids from then on until the clock is there again, perhaps in years: their age is unknown, so nobody waits.
            let future = now.saturating_add(age).saturating_add(1);
            let from =
                if after.and_then(written_at).is_some_and(|at| at >= future) { from } else { future.to_string() };
            found.extend(range(from, "+".to_owned(), count - found.len()).await?);
        }

        let mut page = CleanupIncomplete { last: found.last().map(|entry| entry.id.clone()), ..CleanupIncomplete::default() };
        for entry in found {
            match read_entry(OPERATION, event, &entry) {
                Ok(read) => page.entries.push(read),
                Err(_) => page.unreadable.push(entry.id),
            }
        }
        Ok(page)
    }

    /// Takes, or keeps, the role of the one issuer that sends what others left behind, for `lease`. Whether `issuer` has it.
    pub async fn sweep_as(&self, event: &EventName, issuer: Uuid, lease: Duration) -> Result<bool, StockError> {
        (self.scripts.sweeper)
            .key(self.keys(event).sweeper)
            .arg(issuer.to_string())
            .arg(millis(lease))
            .invoke_async(&mut self.connection())
            .await
            .map_err(failed("take the sweeper's role"))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The part of an entry's id that is a time, in milliseconds.
fn written_at(id: &str) -> Option<u64> {
    id.split('-').next()?.parse().ok()
}

fn read_entry(operation: &'static str, event: &EventName, entry: &StreamId) -> Result<OutboxEntry, StockError> {
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
