//! What becomes of a batch of messages, without I/O: which of them are records, and what follows from recording them.

use std::collections::BTreeMap;

use couponry_domain::{EventName, IssuedRecord, Uuid, record::UnreadableRecord};
use couponry_kafka::Message;
use couponry_postgres::{Recording, Refusal};
use couponry_redis::{Holding, Settlement, SettlementOutcome, Status};

/// A message that can never be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    /// Its index in the batch.
    pub(crate) index: usize,
    /// A short name.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) detail: String,
}

/// A batch whose messages were read.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    /// The records, in the order of the batch.
    pub(crate) records: Vec<IssuedRecord>,
    /// For each record, the index of its message in the batch.
    indexes: Vec<usize>,
    /// What is no record.
    garbage: Vec<DeadLetter>,
}

/// Reads the messages of a batch.
pub(crate) fn decode(messages: &[Message]) -> Decoded {
    let mut decoded = Decoded::default();
    for (index, message) in messages.iter().enumerate() {
        match IssuedRecord::decode(message.version(), &message.payload) {
            Ok(record) => {
                decoded.records.push(record);
                decoded.indexes.push(index);
            }
            Err(error) => {
                let reason = match error {
                    UnreadableRecord::Version(_) => "unknown_version",
                    UnreadableRecord::Json(_) => "unreadable",
                };
                decoded.garbage.push(DeadLetter { index, reason, detail: error.to_string() });
            }
        }
    }
    decoded
}

/// What the database said about one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It knows what became of the record.
    Known(Recording),
    /// Postgres refuses the record for a reason of its own, also when it is alone.
    Unrecordable(String),
}

/// What is left to do for a batch that was recorded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Consequences {
    /// What Redis is to be told, for each event.
    pub(crate) settlements: BTreeMap<(EventName, Uuid), Vec<Settlement>>,
    /// What goes to the dead letters, in the order of the batch.
    pub(crate) dead_letters: Vec<DeadLetter>,
    /// How many records are new.
    pub(crate) recorded: u64,
    /// How many had been recorded before.
    pub(crate) already_recorded: u64,
}

impl Decoded {
    /// What follows from the verdicts on the records (one each, in their order).
    pub(crate) fn conclude(self, verdicts: Vec<Verdict>) -> Consequences {
        let mut consequences = Consequences { dead_letters: self.garbage, ..Consequences::default() };
        for ((record, index), verdict) in self.records.into_iter().zip(self.indexes).zip(verdicts) {
            let IssuedRecord { event_id, event_uid, user_id: user, coupon, .. } = record;
            match &verdict {
                Verdict::Known(Recording::Recorded) => consequences.recorded += 1,
                Verdict::Known(Recording::AlreadyRecorded) => consequences.already_recorded += 1,
                Verdict::Known(Recording::Refused(refusal)) => {
                    let (reason, detail) = (refusal.reason(), refusal.to_string());
                    consequences.dead_letters.push(DeadLetter { index, reason, detail });
                }
                Verdict::Unrecordable(why) => {
                    let detail = why.clone();
                    consequences.dead_letters.push(DeadLetter { index, reason: "unrecordable", detail });
                }
            }
            if let Some(outcome) = outcome(verdict) {
                let settlement = Settlement { user, coupon, outcome };
                consequences.settlements.entry((event_id, event_uid)).or_default().push(settlement);
            }
        }
        consequences.dead_letters.sort_by_key(|letter| letter.index);
        consequences
    }
}

/// What Redis is to be told; None: nothing. A coupon goes back to the stock only if it is certain that it exists and nobody
/// has it.
fn outcome(verdict: Verdict) -> Option<SettlementOutcome> {
    let outcome = match verdict {
        // They say nothing about what the user has now: Postgres may have lost the event, and who was told of a coupon keeps it; or
        // Redis has given the coupon anew, perhaps to the same user.
        Verdict::Known(Recording::Refused(Refusal::UnknownEvent | Refusal::TooLate)) => return None,
        Verdict::Known(Recording::Recorded | Recording::AlreadyRecorded) => SettlementOutcome::Completed,
        Verdict::Known(Recording::Refused(Refusal::UserHoldsAnother {
            coupon,
            discount,
            issued_at,
            record_coupon_is_free,
        })) => SettlementOutcome::Replaced {
            by: Holding { coupon, discount, issued_at, status: Status::Completed },
            return_to_stock: record_coupon_is_free,
        },
        Verdict::Known(Recording::Refused(
            Refusal::UnknownCoupon | Refusal::Mismatch | Refusal::CouponHeldByAnother | Refusal::ImpossibleTime,
        ))
        | Verdict::Unrecordable(_) => SettlementOutcome::Cancelled { return_to_stock: false },
    };
    Some(outcome)
}

#[cfg(test)]
mod tests {
    use couponry_domain::{Discount, DiscountType, record::VERSION_HEADER};

    use super::*;

    fn record(event: u128, user: &str, coupon: &str) -> IssuedRecord {
        IssuedRecord {
            event_id: format!("event-{event}").parse().unwrap(),
            event_uid: Uuid::from_u128(event),
            user_id: user.parse().unwrap(),
            coupon: coupon.parse().unwrap(),
            discount: Discount { kind: DiscountType::Percent, value: 10 },
            issued_at: 5,
        }
    }

    fn message(version: &str, payload: Vec<u8>) -> Message {
        let headers = vec![(VERSION_HEADER.to_owned(), Some(version.as_bytes().to_vec()))];
        Message { partition: 0, offset: 0, key: None, payload, headers }
    }

    fn decoded(records: &[IssuedRecord]) -> Decoded {
        decode(&records.iter().map(|r| message("1", r.encode())).collect::<Vec<_>>())
    }

    #[test]
    fn garbage_does_not_hide_the_records_around_it() {
        let (first, last) = (record(1, "u1", "A"), record(1, "u2", "B"));
        let decoded = decode(&[
            message("1", b"\xffgarbage".to_vec()),
            message("1", first.encode()),
            message("2", last.encode()),
            Message { headers: Vec::new(), ..message("1", last.encode()) },
            message("1", Vec::new()),
            message("1", last.encode()),
        ]);
        assert_eq!(decoded.records, [first, last]);
        let consequences = decoded.conclude(vec![
            Verdict::Known(Recording::Refused(Refusal::UnknownCoupon)),
            Verdict::Known(Recording::Recorded),
        ]);
        let letters: Vec<_> = consequences.dead_letters.iter().map(|letter| (letter.index, letter.reason)).collect();
        let expected = [
            (0, "unreadable"),
            (1, "unknown_coupon"),
            (2, "unknown_version"),
            (3, "unknown_version"),
            (4, "unreadable"),
        ];
        assert_eq!(letters, expected);
        assert_eq!((consequences.recorded, consequences.already_recorded), (1, 0));
    }

    #[test]
    fn each_event_is_settled_on_its_own() {
        let records = [record(1, "u1", "A"), record(2, "u1", "B"), record(1, "u2", "C")];
        let consequences = decoded(&records).conclude(vec![Verdict::Known(Recording::AlreadyRecorded); 3]);
        let users: Vec<_> = consequences
            .settlements
            .iter()
            .map(|((event, _), all)| (event.as_str(), all.iter().map(|s| s.user.as_str()).collect::<Vec<_>>()))
            .collect();
        assert_eq!(users, [("event-1", vec!["u1", "u2"]), ("event-2", vec!["u1"])]);
        assert_eq!((consequences.recorded, consequences.already_recorded), (0, 3));
    }

    #[test]
    fn redis_is_told_the_truth() {
        let refused = |refusal| Verdict::Known(Recording::Refused(refusal));
        let held = Holding {
            coupon: "HELD".parse().unwrap(),
            discount: Discount { kind: DiscountType::Amount, value: 7 },
            issued_at: 3,
            status: Status::Completed,
        };
        let another = |record_coupon_is_free| {
            let Holding { coupon, discount, issued_at, .. } = held.clone();
            refused(Refusal::UserHoldsAnother { coupon, discount, issued_at, record_coupon_is_free })
        };
        let cancelled = SettlementOutcome::Cancelled { return_to_stock: false };
        let replaced = |return_to_stock| SettlementOutcome::Replaced { by: held.clone(), return_to_stock };
        let cases = [
            (Verdict::Known(Recording::Recorded), Some(SettlementOutcome::Completed)),
            (Verdict::Known(Recording::AlreadyRecorded), Some(SettlementOutcome::Completed)),
            (refused(Refusal::UnknownEvent), None),
            (refused(Refusal::TooLate), None),
            (refused(Refusal::UnknownCoupon), Some(cancelled.clone())),
            (refused(Refusal::Mismatch), Some(cancelled.clone())),
            (refused(Refusal::CouponHeldByAnother), Some(cancelled.clone())),
            (refused(Refusal::ImpossibleTime), Some(cancelled.clone())),
            (Verdict::Unrecordable("why".into()), Some(cancelled)),
            (another(true), Some(replaced(true))),
            (another(false), Some(replaced(false))),
        ];
        for (verdict, expected) in cases {
            let consequences = decoded(&[record(1, "u1", "A")]).conclude(vec![verdict.clone()]);
            let settlements: Vec<_> = consequences.settlements.into_values().collect();
            let expected: Vec<_> = expected
                .into_iter()
                .map(|outcome| vec![Settlement { user: "u1".parse().unwrap(), coupon: "A".parse().unwrap(), outcome }])
                .collect();
            assert_eq!(settlements, expected, "{verdict:?}");
        }
    }
}
