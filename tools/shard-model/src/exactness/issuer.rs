//! Batches: a call to a shard, then Kafka, then the answers (`acknowledge: Kafka`).

use std::collections::BTreeSet;

use super::{
    shard::{Issued, Outcome, Record, ShardId},
    world::World,
};

/// A batch that Redis has answered.
pub(super) struct Batch {
    pub(super) shard: ShardId,
    records: Vec<Record>,
    entry: Option<u64>,
    is_sent: bool,
    /// Whether its users still wait.
    pub(super) is_awaited: bool,
}

impl World {
    /// What Redis answered to a batch. Who gets no coupon is told at once.
    pub(super) fn answered(&mut self, shard: ShardId, issued: Issued) -> Result<(), String> {
        let mut records = Vec::new();
        for (user, outcome) in issued.outcomes {
            match outcome {
                Outcome::Issued(holding) | Outcome::Duplicate(holding) => {
                    records.push(Record { user, coupon: holding.coupon, issued_at: holding.issued_at });
                }
                Outcome::SoldOut => self.told_sold_out(user)?,
                Outcome::Wait => {}
            }
        }
        if !records.is_empty() {
            self.batches.push(Batch { shard, records, entry: issued.entry, is_sent: false, is_awaited: true });
        }
        Ok(())
    }

    /// One step of a batch: to Kafka, then to the users and out of the outbox.
    pub(super) fn go_on(&mut self, index: usize) -> Result<(), String> {
        if !self.batches[index].is_sent {
            self.batches[index].is_sent = true;
            let records = self.batches[index].records.clone();
            self.database.topic.extend(records);
            return Ok(());
        }
        let batch = self.batches.swap_remove(index);
        if batch.is_awaited {
            for record in &batch.records {
                self.told(record.user, record.coupon)?;
            }
        }
        if let Some(entry) = batch.entry {
            self.call(super::call::Call::Confirm(batch.shard, entry));
        }
        Ok(())
    }

    /// Who waits for an answer from these shards has given up by now.
    pub(super) fn expire_answers(&mut self, shards: &BTreeSet<ShardId>) {
        for batch in self.batches.iter_mut().filter(|batch| shards.contains(&batch.shard)) {
            batch.is_awaited = false;
        }
    }
}
