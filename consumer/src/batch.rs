//! Decisions about a batch of messages, without I/O: which messages are valid records, and which follow-ups their
//! recording requires.

use std::collections::BTreeMap;

use couponry_domain::{EventName, IssuedCoupon, IssuedRecord, Uuid, record::RecordDecodeError};
use couponry_kafka::Message;
use couponry_postgres::{Deferral, RecordOutcome, Rejection};
use couponry_redis::{Settlement, SettlementOutcome};
use couponry_runtime::error_chain;

/// A message that can never be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    /// The index of the message in the batch.
    pub(crate) index: usize,
    /// The reason as a label.
    pub(crate) reason: &'static str,
    /// The reason in words.
    pub(crate) detail: String,
}

/// A decoded batch.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    /// The records, in the order of the batch.
    pub(crate) records: Vec<IssuedRecord>,
    /// For each record, the index of its message in the batch.
    indexes: Vec<usize>,
    /// The messages that are not valid records.
    undecodable: Vec<DeadLetter>,
    /// The index of the first message of another installation, and how many there are. They are skipped: the consumers
    /// of that installation have a group of their own.
    pub(crate) foreign: Option<(usize, u64)>,
}

/// Decodes the messages of a batch that `installation` has sent. Messages that do not name their installation count as
/// its own.
pub(crate) fn decode(messages: &[Message], installation: Uuid) -> Decoded {
    let mut decoded = Decoded::default();
    let own = installation.to_string();
    for (index, message) in messages.iter().enumerate() {
        if message.installation().is_some_and(|id| id != own.as_bytes()) {
            decoded.foreign.get_or_insert((index, 0)).1 += 1;
            continue;
        }
        match IssuedRecord::decode(message.version(), &message.payload) {
            Ok(record) => {
                decoded.records.push(record);
                decoded.indexes.push(index);
            }
            Err(error) => {
                let reason = match &error {
                    RecordDecodeError::Version(Some(_)) => "unknown_version",
                    RecordDecodeError::Version(None) | RecordDecodeError::Json(_) => "undecodable",
                };
                decoded.undecodable.push(DeadLetter { index, reason, detail: error_chain(error) });
            }
        }
    }
    decoded
}

/// The result of recording one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RecordResult {
    /// The outcome from the database: recorded, rejected or deferred.
    Outcome(RecordOutcome),
    /// Postgres cannot store the record, even in a transaction of its own.
    Unrecordable(String),
}

/// Changes of status in Redis for one event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct EventSettlements {
    /// The changes.
    pub(crate) settlements: Vec<Settlement>,
    /// For each of them, the index of its message in the batch.
    pub(crate) indexes: Vec<usize>,
}

/// What remains to be done for a recorded batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FollowUps {
    /// Changes of status in Redis, per event.
    pub(crate) settlements: BTreeMap<(EventName, Uuid), EventSettlements>,
    /// Messages for the dead-letter topic, in the order of the batch.
    pub(crate) dead_letters: Vec<DeadLetter>,
    /// Number of new records.
    pub(crate) recorded: u64,
    /// Number of records that were already in Postgres.
    pub(crate) already_recorded: u64,
    /// The indexes of the messages whose records are deferred, with their events and causes.
    pub(crate) deferred: Vec<(usize, Uuid, Deferral)>,
}

impl Decoded {
    /// The follow-ups of the results, one for each record in its order.
    pub(crate) fn follow_ups(self, results: Vec<RecordResult>) -> FollowUps {
        let mut follow_ups = FollowUps { dead_letters: self.undecodable, ..FollowUps::default() };
        for ((record, index), result) in self.records.into_iter().zip(self.indexes).zip(results) {
            let IssuedRecord { event_id, event_uid, issued: IssuedCoupon { user_id: user, coupon, .. }, .. } = record;
            match &result {
                RecordResult::Outcome(RecordOutcome::Recorded) => follow_ups.recorded += 1,
                RecordResult::Outcome(RecordOutcome::AlreadyRecorded) => follow_ups.already_recorded += 1,
                RecordResult::Outcome(RecordOutcome::Rejected(rejection)) => {
                    let (reason, detail) = (rejection.reason(), rejection.to_string());
                    follow_ups.dead_letters.push(DeadLetter { index, reason, detail });
                }
                RecordResult::Outcome(RecordOutcome::Deferred(cause)) => {
                    follow_ups.deferred.push((index, event_uid, cause.clone()));
                }
                RecordResult::Unrecordable(error) => {
                    let detail = error.clone();
                    follow_ups.dead_letters.push(DeadLetter { index, reason: "unrecordable", detail });
                }
            }
            if let Some(outcome) = settlement_outcome(result) {
                let settlement = Settlement { user, coupon, outcome };
                let of_event = follow_ups.settlements.entry((event_id, event_uid)).or_default();
                of_event.settlements.push(settlement);
                of_event.indexes.push(index);
            }
        }
        follow_ups.dead_letters.sort_by_key(|letter| letter.index);
        follow_ups
    }
}

/// The new status in Redis, or None to leave it unchanged. A coupon is put back into the queue only if it is known to
/// exist in Postgres with this discount and has no holder.
fn settlement_outcome(result: RecordResult) -> Option<SettlementOutcome> {
    let outcome = match result {
        // These rejections do not prove that the entry in Redis is wrong: Postgres may have lost the event, or Redis
        // has issued the coupon again since the record cutoff, possibly to the same user. Nothing is known about a
        // deferred record.
        RecordResult::Outcome(
            RecordOutcome::Rejected(Rejection::UnknownEvent | Rejection::BeforeRecordCutoff)
            | RecordOutcome::Deferred(_),
        ) => return None,
        RecordResult::Outcome(RecordOutcome::Recorded | RecordOutcome::AlreadyRecorded) => SettlementOutcome::Completed,
        RecordResult::Outcome(RecordOutcome::Rejected(Rejection::UserHoldsAnother {
            recorded,
            record_coupon_is_free,
        })) => SettlementOutcome::Replaced { by: recorded, requeue: record_coupon_is_free },
        RecordResult::Outcome(RecordOutcome::Rejected(
            Rejection::UnknownCoupon
            | Rejection::DiscountMismatch
            | Rejection::CouponHeldByAnother
            | Rejection::IssuedAtOutOfRange,
        ))
        | RecordResult::Unrecordable(_) => SettlementOutcome::Cancelled { requeue: false },
    };
    Some(outcome)
}

#[cfg(test)]
mod tests {
    use couponry_domain::{
        Discount, DiscountType,
        record::{INSTALLATION_HEADER, VERSION_HEADER},
    };

    use super::*;

    const OWN: Uuid = Uuid::from_u128(7);

    #[test]
    fn records_of_another_installation_are_skipped() {
        let of = |installation: &str| {
            let mut sent = message("1", record(1, "u1", "A").encode());
            sent.headers.push((INSTALLATION_HEADER.to_owned(), Some(installation.as_bytes().to_vec())));
            sent
        };
        let other = Uuid::from_u128(8).to_string();
        let unlabelled = message("1", record(1, "u1", "A").encode());
        let decoded = decode(&[of(&OWN.to_string()), of(&other), of("not an id"), unlabelled], OWN);
        assert_eq!((decoded.indexes, decoded.foreign), (vec![0, 3], Some((1, 2))));
        assert_eq!(decoded.undecodable, []);
    }

    fn record(event: u128, user: &str, coupon: &str) -> IssuedRecord {
        IssuedRecord {
            event_id: format!("event-{event}").parse().unwrap(),
            event_uid: Uuid::from_u128(event),
            issued: IssuedCoupon {
                user_id: user.parse().unwrap(),
                coupon: coupon.parse().unwrap(),
                discount: Discount { kind: DiscountType::Percent, value: 10 },
                issued_at: 5,
            },
            valid_until: None,
        }
    }

    fn message(version: &str, payload: Vec<u8>) -> Message {
        let headers = vec![(VERSION_HEADER.to_owned(), Some(version.as_bytes().to_vec()))];
        Message { partition: 0, offset: 0, key: None, payload, headers }
    }

    fn decoded(records: &[IssuedRecord]) -> Decoded {
        decode(&records.iter().map(|r| message("1", r.encode())).collect::<Vec<_>>(), OWN)
    }

    #[test]
    fn decode_returns_undecodable_messages_as_dead_letters() {
        let (first, last) = (record(1, "u1", "A"), record(1, "u2", "B"));
        let decoded = decode(
            &[
                message("1", b"\xffgarbage".to_vec()),
                message("1", first.encode()),
                message("2", last.encode()),
                Message { headers: Vec::new(), ..message("1", last.encode()) },
                message("1", Vec::new()),
                message("1", last.encode()),
            ],
            OWN,
        );
        assert_eq!(decoded.records, [first, last]);
        let follow_ups = decoded.follow_ups(vec![
            RecordResult::Outcome(RecordOutcome::Rejected(Rejection::UnknownCoupon)),
            RecordResult::Outcome(RecordOutcome::Recorded),
        ]);
        let letters: Vec<_> = follow_ups.dead_letters.iter().map(|letter| (letter.index, letter.reason)).collect();
        let expected =
            [(0, "undecodable"), (1, "unknown_coupon"), (2, "unknown_version"), (3, "undecodable"), (4, "undecodable")];
        assert_eq!(letters, expected);
        assert_eq!((follow_ups.recorded, follow_ups.already_recorded), (1, 0));
    }

    #[test]
    fn follow_ups_group_settlements_by_event() {
        let records = [record(1, "u1", "A"), record(2, "u1", "B"), record(1, "u2", "C")];
        let follow_ups = decoded(&records).follow_ups(vec![RecordResult::Outcome(RecordOutcome::AlreadyRecorded); 3]);
        let users: Vec<_> = follow_ups
            .settlements
            .iter()
            .map(|((event, _), EventSettlements { settlements, indexes })| {
                let users: Vec<_> = settlements.iter().map(|s| s.user.as_str()).collect();
                (event.as_str(), users, indexes.as_slice())
            })
            .collect();
        let expected: [(_, _, &[usize]); 2] = [("event-1", vec!["u1", "u2"], &[0, 2]), ("event-2", vec!["u1"], &[1])];
        assert_eq!(users, expected);
        assert_eq!((follow_ups.recorded, follow_ups.already_recorded), (0, 3));
    }

    #[test]
    fn record_result_determines_the_settlement() {
        let rejected = |rejection| RecordResult::Outcome(RecordOutcome::Rejected(rejection));
        let held = IssuedCoupon {
            user_id: "u1".parse().unwrap(),
            coupon: "HELD".parse().unwrap(),
            discount: Discount { kind: DiscountType::Amount, value: 7 },
            issued_at: 3,
        };
        let another = |record_coupon_is_free| {
            rejected(Rejection::UserHoldsAnother { recorded: held.clone(), record_coupon_is_free })
        };
        let cancelled = SettlementOutcome::Cancelled { requeue: false };
        let replaced = |requeue| SettlementOutcome::Replaced { by: held.clone(), requeue };
        let cases = [
            (RecordResult::Outcome(RecordOutcome::Recorded), Some(SettlementOutcome::Completed)),
            (RecordResult::Outcome(RecordOutcome::AlreadyRecorded), Some(SettlementOutcome::Completed)),
            (rejected(Rejection::UnknownEvent), None),
            (rejected(Rejection::BeforeRecordCutoff), None),
            (RecordResult::Outcome(RecordOutcome::Deferred(Deferral::StockMissing)), None),
            (rejected(Rejection::UnknownCoupon), Some(cancelled.clone())),
            (rejected(Rejection::DiscountMismatch), Some(cancelled.clone())),
            (rejected(Rejection::CouponHeldByAnother), Some(cancelled.clone())),
            (rejected(Rejection::IssuedAtOutOfRange), Some(cancelled.clone())),
            (RecordResult::Unrecordable("why".into()), Some(cancelled)),
            (another(true), Some(replaced(true))),
            (another(false), Some(replaced(false))),
        ];
        for (result, expected) in cases {
            let follow_ups = decoded(&[record(1, "u1", "A")]).follow_ups(vec![result.clone()]);
            let settlements: Vec<_> = follow_ups.settlements.into_values().map(|all| all.settlements).collect();
            let expected: Vec<_> = expected
                .into_iter()
                .map(|outcome| vec![Settlement { user: "u1".parse().unwrap(), coupon: "A".parse().unwrap(), outcome }])
                .collect();
            assert_eq!(settlements, expected, "{result:?}");
        }
    }
}
