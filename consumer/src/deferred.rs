//! Records that are deferred, and the batches whose offsets wait for them.
//!
//! Postgres defers a record while it proves neither that it can be recorded nor that it never can be, or while another
//! session locks its event (see [`couponry_postgres::Deferral`]). A recorded one is deferred while Redis cannot settle
//! the coupons of its event, although it is available for others: a node of a cluster is down, or a key has the wrong
//! type. The other records of its batch, and all later batches, are recorded and settled meanwhile. Only the commits
//! wait, so that deferred records are consumed again after a restart.

use std::collections::{BTreeMap, HashSet, VecDeque};

use couponry_domain::Uuid;
use couponry_kafka::Message;

/// Beyond this number of deferred records, nothing more is consumed. A record takes a few hundred bytes.
const MAX_RECORDS: usize = 50_000;

/// Beyond this number of uncommitted batches, nothing more is consumed. A batch takes some tens of bytes per partition.
const MAX_BATCHES: usize = 100_000;

/// What a deferred record waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    /// To be recorded.
    Recording,
    /// To be recorded when another session no longer locks its event.
    Unlock,
    /// It is recorded, and its coupon is to be settled.
    Settlement,
}

/// A message whose record is deferred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeferredMessage {
    /// The event of the record.
    pub(crate) event: Uuid,
    /// Why it is deferred.
    pub(crate) cause: String,
    /// What it waits for.
    pub(crate) waits_for: WaitsFor,
    /// The message.
    pub(crate) message: Message,
}

/// A batch that is processed except for its deferred records.
#[derive(Debug)]
struct Uncommitted<C> {
    number: u64,
    commit: C,
    deferred: usize,
}

/// The deferred records, and the commits from the first of them on, in the order in which the batches were consumed.
#[derive(Debug)]
pub(crate) struct Deferrals<C> {
    next_number: u64,
    batches: VecDeque<Uncommitted<C>>,
    /// For each event its records with the numbers of their batches.
    records: BTreeMap<Uuid, VecDeque<(u64, DeferredMessage)>>,
}

impl<C> Deferrals<C> {
    pub(crate) fn new() -> Self {
        Self { next_number: 0, batches: VecDeque::new(), records: BTreeMap::new() }
    }

    /// Adds the commit of a processed batch and those of its records that are deferred.
    pub(crate) fn push(&mut self, commit: C, deferred: Vec<DeferredMessage>) {
        let number = self.next_number;
        self.next_number += 1;
        self.batches.push_back(Uncommitted { number, commit, deferred: deferred.len() });
        for message in deferred {
            self.records.entry(message.event).or_default().push_back((number, message));
        }
    }

    /// Removes the next commit that is due: no record of its batch or of an earlier one is deferred.
    pub(crate) fn pop_committable(&mut self) -> Option<C> {
        self.batches.pop_front_if(|batch| batch.deferred == 0).map(|first| first.commit)
    }

    /// The events with deferred records.
    pub(crate) fn events(&self) -> Vec<Uuid> {
        self.records.keys().copied().collect()
    }

    /// Why recorded coupons of this event cannot be settled. None: no such record is deferred.
    pub(crate) fn unsettled(&self, event: Uuid) -> Option<&str> {
        let mut records = self.records.get(&event)?.iter();
        records
            .find(|(_, deferred)| deferred.waits_for == WaitsFor::Settlement)
            .map(|(_, deferred)| deferred.cause.as_str())
    }

    /// The events that another session locked when their records were deferred.
    pub(crate) fn locked_events(&self) -> HashSet<Uuid> {
        let is_locked = |records: &VecDeque<(u64, DeferredMessage)>| {
            records.iter().any(|(_, deferred)| deferred.waits_for == WaitsFor::Unlock)
        };
        self.records.iter().filter(|(_, records)| is_locked(records)).map(|(event, _)| *event).collect()
    }

    /// The first deferred messages of this event.
    pub(crate) fn first(&self, event: Uuid, max: usize) -> Vec<Message> {
        let messages = self.records.get(&event).into_iter().flatten();
        messages.take(max).map(|(_, deferred)| deferred.message.clone()).collect()
    }

    /// Applies a retry of the first `count` records of this event: keeps those in `still`, and removes the others.
    pub(crate) fn replace_first(&mut self, event: Uuid, count: usize, mut still: Vec<DeferredMessage>) {
        let Some(records) = self.records.get_mut(&event) else { return };
        // The numbers are consecutive.
        let first = self.batches.front().map_or(0, |batch| batch.number);
        let mut kept = Vec::with_capacity(still.len());
        for (number, deferred) in records.drain(..count.min(records.len())) {
            let same = |other: &DeferredMessage| {
                (other.message.partition, other.message.offset) == (deferred.message.partition, deferred.message.offset)
            };
            if let Some(position) = still.iter().position(same) {
                kept.push((number, still.swap_remove(position)));
            } else if let Some(batch) = self.batches.get_mut(usize::try_from(number - first).unwrap_or(usize::MAX)) {
                batch.deferred -= 1;
            }
        }
        for one in kept.into_iter().rev() {
            records.push_front(one);
        }
        if records.is_empty() {
            self.records.remove(&event);
        }
    }

    /// The number of deferred records.
    pub(crate) fn len(&self) -> usize {
        self.records.values().map(VecDeque::len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether no further batch should be added.
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= MAX_RECORDS || self.batches.len() >= MAX_BATCHES
    }

    /// The first deferred record of each event, in words.
    pub(crate) fn describe(&self) -> String {
        let describe = |(event, records): (&Uuid, &VecDeque<(u64, DeferredMessage)>)| {
            let cause = records.front().map_or("", |(_, first)| first.cause.as_str());
            format!("event {event}: {} records, {cause}", records.len())
        };
        self.records.iter().map(describe).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(offset: i64) -> Message {
        Message { partition: 0, offset, key: None, payload: vec![b'x'], headers: Vec::new() }
    }

    fn deferred(event: u128, offset: i64) -> DeferredMessage {
        let event = Uuid::from_u128(event);
        DeferredMessage { event, cause: "why".into(), waits_for: WaitsFor::Recording, message: message(offset) }
    }

    fn committable(deferrals: &mut Deferrals<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| deferrals.pop_committable()).collect()
    }

    #[test]
    fn batches_after_a_deferred_record_are_committed_in_order_once_it_is_recorded() {
        let mut deferrals = Deferrals::new();
        deferrals.push("a", vec![]);
        assert_eq!(committable(&mut deferrals), ["a"]);
        deferrals.push("b", vec![deferred(1, 2), deferred(2, 3)]);
        deferrals.push("c", vec![]);
        deferrals.push("d", vec![deferred(1, 6)]);
        assert_eq!(committable(&mut deferrals), [""; 0]);
        assert_eq!((deferrals.len(), deferrals.events().len()), (3, 2));
        let one = Uuid::from_u128(1);
        assert_eq!(deferrals.first(one, 9).iter().map(|m| m.offset).collect::<Vec<_>>(), [2, 6]);

        deferrals.replace_first(one, 2, vec![deferred(1, 6)]);
        assert_eq!(committable(&mut deferrals), [""; 0], "a record of another event is deferred");
        deferrals.replace_first(Uuid::from_u128(2), 1, vec![]);
        assert_eq!(committable(&mut deferrals), ["b", "c"]);
        assert!(deferrals.describe().contains("1 records, why"), "{}", deferrals.describe());
        deferrals.replace_first(one, 1, vec![]);
        assert_eq!(committable(&mut deferrals), ["d"]);
        assert_eq!((deferrals.len(), deferrals.events().len()), (0, 0));
    }

    #[test]
    fn coupons_of_an_event_wait_for_its_deferred_settlements() {
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut deferrals = Deferrals::new();
        let unsettled = DeferredMessage { waits_for: WaitsFor::Settlement, cause: "full".into(), ..deferred(1, 3) };
        deferrals.push("a", vec![deferred(1, 2), unsettled, deferred(2, 4)]);
        assert_eq!((deferrals.unsettled(one), deferrals.unsettled(two)), (Some("full"), None));
        deferrals.replace_first(one, 2, vec![deferred(1, 2)]);
        assert_eq!(deferrals.unsettled(one), None);
    }
}
