//! `couponry-operator replay-dead-letters`: sends dead letters to the topic again, after their cause was corrected.
//!
//! # Guarantees
//! - Without `--yes` nothing is sent.
//! - Only dead letters that exist when the command starts are sent, each distinct record once, and none that is
//!   recorded. Recording is idempotent, so the command can be repeated. A record that is rejected again becomes another
//!   dead letter.
//!
//! # Caveats
//! Dead letters stay in their topic. Each distinct record is kept in memory.

use std::{
    collections::{BTreeMap, HashSet},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use couponry_audit::Stores;
use couponry_domain::{EventName, IssuedCoupon, IssuedRecord, UserId, Uuid};
use couponry_kafka::{DeadLetterProducer, Delivery, KafkaError, KafkaSettings, Message, Producer, TopicReader};
use couponry_output::{Stdout, StdoutError};
use couponry_runtime::telemetry::TelemetryArgs;

use crate::commands::{args::StoreArgs, format::group_digits};

/// How many dead letters are compared with Postgres, and sent, at a time.
const CHUNK: usize = 1000;
/// Pause before a record is sent again to a producer whose queue is full.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(crate) struct ReplayDeadLetters {
    /// Only dead letters of the event with this name.
    #[arg(long, value_name = "NAME")]
    event: Option<EventName>,
    /// Only dead letters with this reason, for example `unknown_event`.
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Send them. Default: only print their number by event and reason.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    stores: StoreArgs,
    #[command(flatten)]
    pub(crate) telemetry: TelemetryArgs,
}

/// The numbers of dead letters of one event with one reason.
#[derive(Default)]
struct Counts {
    /// All dead letters.
    all: u64,
    /// Distinct records that are not recorded.
    unrecorded: u64,
}

/// A dead letter that can be sent.
struct Replay {
    record: IssuedRecord,
    reason: String,
    message: Message,
}

impl ReplayDeadLetters {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let stores = self.stores.stores()?;
        let topic = stores.kafka.dead_letter_topic();
        let producer = if self.yes { Some(Producer::new(&stores.kafka)?) } else { None };
        let mut counts: BTreeMap<(String, String), Counts> = BTreeMap::new();
        let mut known: HashSet<(Uuid, IssuedCoupon)> = HashSet::new();
        let mut reader = TopicReader::start(&KafkaSettings { topic: topic.clone(), ..stores.kafka.clone() });
        let mut chunk = Vec::new();
        loop {
            let next = match reader.next().await {
                Err(KafkaError::TopicNotFound(_)) => None,
                next => next?,
            };
            let is_last = next.is_none();
            if let Some(letter) = next.filter(|letter| self.is_selected(letter)) {
                let reason = DeadLetterProducer::reason(&letter).to_owned();
                let record = IssuedRecord::decode(letter.version(), &letter.payload);
                let event = record.as_ref().map_or_else(|_| "-".to_owned(), |record| record.event_id.to_string());
                counts.entry((event, reason.clone())).or_default().all += 1;
                if let (Ok(record), Some(message)) = (record, DeadLetterProducer::original(&letter))
                    && known.insert((record.event_uid, record.issued.clone()))
                {
                    chunk.push(Replay { record, reason, message });
                }
            }
            if chunk.len() == CHUNK || is_last {
                let unrecorded = unrecorded(std::mem::take(&mut chunk), &stores).await?;
                for Replay { record, reason, .. } in &unrecorded {
                    let count = counts.entry((record.event_id.to_string(), reason.clone())).or_default();
                    count.unrecorded += 1;
                }
                if let Some(producer) = &producer {
                    send(&unrecorded, producer).await?;
                }
            }
            if is_last {
                break;
            }
        }
        Ok(self.print(&topic, &counts)?)
    }

    fn is_selected(&self, letter: &Message) -> bool {
        let is_of_event = self.event.as_ref().is_none_or(|event| {
            IssuedRecord::decode(letter.version(), &letter.payload).is_ok_and(|record| record.event_id == *event)
        });
        is_of_event && self.reason.as_ref().is_none_or(|selected| selected == DeadLetterProducer::reason(letter))
    }

    fn print(&self, topic: &str, counts: &BTreeMap<(String, String), Counts>) -> Result<ExitCode, StdoutError> {
        let number = group_digits;
        let (mut all, mut unrecorded) = (0, 0);
        for ((event, reason), count) in counts {
            let (found, not_recorded) = (number(count.all), number(count.unrecorded));
            writeln!(
                Stdout,
                "  {event}  {reason}  {found} dead letters, {not_recorded} records of them are not recorded"
            )?;
            all += count.all;
            unrecorded += count.unrecorded;
        }
        writeln!(
            Stdout,
            "{topic}: {} dead letters, {} records of them are not recorded",
            number(all),
            number(unrecorded)
        )?;
        match (unrecorded, self.yes) {
            (0, _) => writeln!(Stdout, "OK: nothing to send")?,
            (_, true) => writeln!(Stdout, "OK: {} records were sent again", number(unrecorded))?,
            (_, false) => writeln!(Stdout, "nothing was changed; repeat with --yes to send these records again")?,
        }
        Ok(if unrecorded == 0 || self.yes { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Those that are not recorded in Postgres.
async fn unrecorded(records: Vec<Replay>, stores: &Stores) -> anyhow::Result<Vec<Replay>> {
    let mut users: BTreeMap<Uuid, Vec<UserId>> = BTreeMap::new();
    for Replay { record, .. } in &records {
        users.entry(record.event_uid).or_default().push(record.issued.user_id.clone());
    }
    let mut recorded = HashSet::new();
    for (uid, users) in users {
        let issuances = stores.database.find_issuances(uid, &users, &[]).await?;
        recorded.extend(issuances.into_iter().map(|found| (uid, found.issued.user_id, found.issued.coupon)));
    }
    let is_recorded = |IssuedRecord { event_uid, issued, .. }: &IssuedRecord| {
        recorded.contains(&(*event_uid, issued.user_id.clone(), issued.coupon.clone()))
    };
    Ok(records.into_iter().filter(|record| !is_recorded(&record.record)).collect())
}

/// Returns when all in-sync replicas have acknowledged the records.
async fn send(records: &[Replay], producer: &Producer) -> anyhow::Result<()> {
    let mut deliveries: Vec<Delivery> = Vec::with_capacity(records.len());
    for Replay { message, .. } in records {
        loop {
            if let Ok(delivery) = producer.send_messages(std::slice::from_ref(message)) {
                deliveries.push(delivery);
                break;
            }
            tokio::time::sleep(QUEUE_FULL_PAUSE).await;
        }
    }
    for delivery in deliveries {
        delivery.await?;
    }
    Ok(())
}
