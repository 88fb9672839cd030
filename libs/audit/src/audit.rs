//! The audit of one event.

use std::time::Duration;

use couponry_domain::{EventName, Uuid};
use couponry_postgres::UseCounts;

use crate::{
    comparison::Comparison,
    discrepancy::Discrepancy,
    error::AuditError,
    recheck::Recheck,
    report::{Report, Verdict},
    stores::Stores,
};

impl Stores {
    /// Compares the data of this event in all stores. Coupons in flight are checked again for up to `timeout`.
    pub async fn audit(&self, name: &EventName, uid: Uuid, timeout: Duration) -> Result<Report, AuditError> {
        let Some(event) = self.database.event(uid).await? else {
            let others = self.database.event_uids(name).await?;
            return Err(AuditError::UnknownEvent { name: name.clone(), uid, others });
        };
        let mut notes = Vec::new();
        let mut comparison = Comparison::default();
        comparison.pseudonym_key = event.pseudonym_key();
        self.read_postgres(&event, &mut comparison).await?;
        let dead_letters = self.read_kafka(uid, &mut comparison, &mut notes).await?;
        let observed = self.read_redis(&event, &mut comparison).await?;
        if let Some(observed) = &observed {
            let counts = &mut comparison.counts;
            (counts.cancelled, counts.withheld) = (observed.cancelled, observed.withheld_count());
            if observed.retired.is_some() {
                (counts.retired, counts.available, counts.issued) = (true, observed.available, observed.issued);
                notes.push("the event is retired: its coupons were removed from Redis".to_owned());
            }
        } else if event.opens_at.is_some() {
            comparison.discrepancies.add(Discrepancy::EventMismatch { redis: self.uid_in_redis(name).await? });
        } else {
            notes.push("the coupons are not loaded into Redis yet".to_owned());
        }
        let observed = observed.filter(|observed| observed.retired.is_none());
        let recheck = Recheck { stores: self, name, uid, observed, dead_letters, comparison };
        let (comparison, in_flight) = recheck.run(timeout).await?;
        let Comparison { counts, discrepancies, suspects, .. } = comparison;
        if counts.not_in_kafka > 0 {
            let missing = counts.not_in_kafka;
            notes.push(format!(
                "{missing} recorded issuances have no record in Kafka, as after its retention or a loss of the topic; \
                 Postgres has them, so nothing is lost"
            ));
        }
        let uses = self.database.use_counts(uid).await?;
        if uses != UseCounts::default() {
            let UseCounts { reserved, redeemed, voided } = uses;
            notes.push(format!("{redeemed} coupons were redeemed, {reserved} are reserved, {voided} were voided"));
        }
        if counts.cancelled > 0 {
            let cancelled = counts.cancelled;
            notes.push(format!("{cancelled} users have a cancelled entry: their coupon could not be recorded"));
        }
        Ok(Report {
            event: name.clone(),
            uid,
            verdict: Verdict::of(&discrepancies, suspects.unchecked, in_flight),
            counts,
            in_flight,
            discrepancies,
            unchecked: suspects.unchecked,
            notes,
        })
    }
}
