//! Records issuances that Redis holds and Postgres does not have.
//!
//! Those of which Kafka possibly has no record are sent there, through the outbox, and the consumers record them; if
//! that has not helped, they are recorded directly ([`Delivery`]). The others are always recorded directly, because (a)
//! Redis marks them as recorded, so Postgres has lost them, or (b) they are older than the record cutoff, so the
//! consumers reject them.
//!
//! # Guarantees
//! An issuance is recorded only if neither its user nor its coupon has another recorded issuance. After a recovery of
//! Redis has started, nothing is recorded directly any more on behalf of an earlier observation
//! ([`couponry_postgres::Database::record_again`]).

use std::collections::HashMap;

use couponry_domain::{IssuedCoupon, UserId, code::CouponCode};
use couponry_postgres::{Database, Issuance, StoredEvent};
use couponry_redis::{IssuedEntry, IssuedPage, IssuedStatus, RedisStore, Settlement, SettlementOutcome};

use crate::{metrics::Metrics, reconcile::error::ReconcileError};

/// How many issuances are added to the outbox again before their recording is awaited: they need memory in Redis
/// meanwhile, about 100 bytes each.
pub(super) const MAX_RESENT: u64 = 1_000_000;

/// How to record issuances of which Kafka possibly has no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// By the consumers.
    Kafka,
    /// Directly: sending them has not helped.
    Direct,
}

/// How many issuances were treated how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StrandedOutcome {
    /// Sent to Kafka.
    pub(crate) resent: u64,
    /// Recorded directly.
    pub(crate) recorded: u64,
    /// Not recordable: the user has another coupon in Postgres, the coupon another user, or it does not exist.
    pub(crate) conflicting: u64,
    /// Entries of Redis that cannot be decoded.
    pub(crate) undecodable: u64,
}

impl StrandedOutcome {
    /// For logs and Kubernetes Events.
    pub(super) fn describe(self) -> String {
        let Self { resent, recorded, conflicting, undecodable } = self;
        let mut parts = Vec::new();
        if resent > 0 {
            parts.push(format!("{resent} were added to the outbox again"));
        }
        if recorded > 0 {
            parts.push(format!("{recorded} were recorded directly in Postgres"));
        }
        if conflicting > 0 {
            parts.push(format!(
                "{conflicting} cannot be recorded, because Postgres has another coupon for the user, another user for the \
                 coupon, or no such coupon"
            ));
        }
        if undecodable > 0 {
            parts.push(format!("{undecodable} entries of couponIssued in Redis cannot be decoded"));
        }
        parts.join(", ")
    }

    pub(super) fn add_to(self, metrics: &Metrics) {
        metrics.issuances_resent.inc_by(self.resent);
        metrics.issuances_recorded_again.inc_by(self.recorded);
        metrics.issuances_undecodable.inc_by(self.undecodable);
    }
}

/// Compares the holders in Redis with Postgres in pages, with constant memory, up to [`MAX_RESENT`]. `stored` was read
/// before. None: a recovery has started meanwhile.
pub(crate) async fn record_stranded_issuances(
    stored: &StoredEvent,
    database: &Database,
    redis_store: &RedisStore,
    delivery: Delivery,
) -> Result<Option<StrandedOutcome>, ReconcileError> {
    let StoredEvent { uid, name, .. } = stored;
    let mut outcome = StrandedOutcome::default();
    let mut cursor = Some(0);
    while let Some(at) = cursor.filter(|_| outcome.resent < MAX_RESENT) {
        let IssuedPage { mut entries, undecodable, next } = redis_store.issued_page(name, at).await?;
        outcome.undecodable += undecodable.len() as u64;
        entries.retain(|entry| entry.status != IssuedStatus::Cancelled);
        let users: Vec<UserId> = entries.iter().map(|entry| entry.issued.user_id.clone()).collect();
        let recorded = database.find_issuances(*uid, &users, &[]).await?;
        let recorded: HashMap<UserId, CouponCode> =
            recorded.into_iter().map(|Issuance { issued, .. }| (issued.user_id, issued.coupon)).collect();
        let (mut to_settle, mut to_send, mut to_record) = (Vec::new(), Vec::new(), Vec::new());
        for entry in entries {
            let is_recorded = recorded.get(&entry.issued.user_id) == Some(&entry.issued.coupon);
            match entry.status {
                IssuedStatus::Completed | IssuedStatus::Voided if is_recorded => {}
                _ if is_recorded => to_settle.push(entry.issued),
                IssuedStatus::Pending if delivery == Delivery::Kafka && is_after_cutoff(&entry, stored) => {
                    to_send.push(entry);
                }
                _ => to_record.push(entry.issued),
            }
        }
        if !to_record.is_empty() {
            let Some(users) = database.record_again(stored, &to_record).await? else { return Ok(None) };
            let (done, conflicting): (Vec<_>, Vec<_>) =
                to_record.into_iter().partition(|issued| users.contains(&issued.user_id));
            outcome.recorded += done.len() as u64;
            outcome.conflicting += conflicting.len() as u64;
            to_settle.extend(done);
        }
        let settlements: Vec<Settlement> = to_settle.into_iter().map(completed).collect();
        redis_store.settle(name, *uid, &settlements).await?;
        redis_store.add_to_outbox(name, *uid, &to_send).await?;
        outcome.resent += to_send.len() as u64;
        cursor = next;
    }
    Ok(Some(outcome))
}

fn completed(issued: IssuedCoupon) -> Settlement {
    let IssuedCoupon { user_id: user, coupon, .. } = issued;
    Settlement { user, coupon, outcome: SettlementOutcome::Completed }
}

fn is_after_cutoff(entry: &IssuedEntry, stored: &StoredEvent) -> bool {
    stored.record_cutoff.is_none_or(|cutoff| entry.issued.issued_at >= cutoff)
}
