//! Messages that were consumed together.

use std::collections::BTreeMap;

use crate::message::Message;

/// Messages that were consumed together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The messages; those of one partition are in order.
    pub messages: Vec<Message>,
    /// For each partition in which the consumer has passed markers that end a transaction, the offset after them.
    pub(crate) passed_markers: BTreeMap<i32, i64>,
}

impl Batch {
    /// For each partition, the offset after its last message or marker. It may be lower than that of an earlier batch:
    /// the offsets start again when the brokers no longer have the next one.
    pub(crate) fn next_offsets(&self) -> BTreeMap<i32, i64> {
        let mut next: BTreeMap<i32, i64> =
            self.messages.iter().map(|message| (message.partition, message.offset + 1)).collect();
        for (partition, offset) in &self.passed_markers {
            let next = next.entry(*partition).or_insert(*offset);
            *next = (*next).max(*offset);
        }
        next
    }
}
