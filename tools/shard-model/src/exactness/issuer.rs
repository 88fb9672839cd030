//! Steps of an issuer with `acknowledge: Kafka`: a batch goes to its shard, then to Kafka, then responds to its users.

use std::collections::BTreeSet;

use super::{
    call::Call,
    shard::{IssueOutcome, IssueResult, Record, ShardId},
    simulation::{Batch, Simulation},
};

impl Simulation {
    /// Handles the reply to a batch. Users without a coupon are answered at once.
    pub(super) fn handle_issue_result(&mut self, shard: ShardId, result: IssueResult) -> Result<(), String> {
        let mut records = Vec::new();
        for (user, outcome) in result.outcomes {
            match outcome {
                IssueOutcome::Issued(issuance) | IssueOutcome::Duplicate(issuance) => {
                    records.push(Record { user, coupon: issuance.coupon, issued_at: issuance.issued_at });
                }
                IssueOutcome::SoldOut => self.record_sold_out(user)?,
                IssueOutcome::Wait => {}
            }
        }
        if !records.is_empty() {
            self.batches.push(Batch { shard, records, entry: result.entry, is_sent: false, is_awaited: true });
        }
        Ok(())
    }

    /// One step of a batch: first its records go to Kafka; then its users are answered and the outbox entry is
    /// confirmed.
    pub(super) fn advance_batch(&mut self, index: usize) -> Result<(), String> {
        if !self.batches[index].is_sent {
            self.batches[index].is_sent = true;
            let records = self.batches[index].records.clone();
            self.database.topic.extend(records);
            return Ok(());
        }
        let batch = self.batches.swap_remove(index);
        if batch.is_awaited {
            for record in &batch.records {
                self.record_response(record.user, record.coupon)?;
            }
        }
        if let Some(entry) = batch.entry {
            self.call(Call::Confirm(batch.shard, entry));
        }
        Ok(())
    }

    /// The users of all batches of these shards have timed out.
    pub(super) fn expire_batches(&mut self, shards: &BTreeSet<ShardId>) {
        for batch in self.batches.iter_mut().filter(|batch| shards.contains(&batch.shard)) {
            batch.is_awaited = false;
        }
    }
}
