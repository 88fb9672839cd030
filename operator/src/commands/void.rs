//! `couponry-operator void EVENT`: withdraws a coupon from its user
//! ([ADR 0030](../../../docs/adr/0030-voids-and-erasures.md)).
//!
//! # Guarantees
//! - Postgres first: once it has the void, no redeemer accepts the coupon. If Redis is not available then, the operator
//!   applies the void later (`voids.rs`).
//! - The coupon never goes to another user, and its user receives no other one.
//! - A coupon that was redeemed is not voided. A coupon that was voided remains as it is.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Args;
use couponry_domain::{IssuedCoupon, UserId, code::CouponCode, redemption::Refusal};
use couponry_output::{Stderr, Stdout};
use couponry_postgres::{Database, KnownEvent, StoredEvent, VoidOutcome};
use couponry_redis::{IssuedEntry, IssuedStatus, Lookup, RedisStore};
use couponry_runtime::{error_chain, telemetry::TelemetryArgs};
use couponry_settings::{PostgresSettings, RedisSettings};

use crate::{commands::args::EventArgs, reconcile::voids};

/// The longest reason, in bytes.
const MAX_REASON: usize = 500;

#[derive(Debug, Args)]
pub(crate) struct Void {
    #[command(flatten)]
    event: EventArgs,
    #[command(flatten)]
    coupon: SelectedCoupon,
    /// Why the coupon is voided. It is stored with the coupon, so it should not name a person.
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
    /// Who voids the coupon. It is stored with the coupon.
    #[arg(long, value_name = "NAME", value_parser = parse_reason)]
    actor: String,
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    postgres: PostgresSettings,
    #[command(flatten)]
    pub(crate) telemetry: TelemetryArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct SelectedCoupon {
    /// The user whose coupon is voided.
    #[arg(long, value_name = "USER")]
    user: Option<UserId>,
    /// The coupon that is voided.
    #[arg(long, value_name = "CODE")]
    code: Option<CouponCode>,
}

impl Void {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let (database, redis_store) = (Database::open(&self.postgres)?, RedisStore::open(&self.redis)?);
        let uid = self.event.uid(&database).await?;
        // Read before Redis, so that a recovery that starts after it prevents the recording.
        let event =
            database.event(uid).await?.with_context(|| format!("the event {uid} does not exist in Postgres"))?;
        let Some(issued) = self.recorded(&event, &database, &redis_store).await? else {
            let coupon = match &self.coupon {
                SelectedCoupon { code: Some(code), .. } => format!("the coupon {code} has no user"),
                SelectedCoupon { user, .. } => {
                    format!("the user {} has no coupon of the event", user.as_ref().map_or("", UserId::as_str))
                }
            };
            writeln!(Stdout, "{coupon}: nothing was changed")?;
            return Ok(ExitCode::FAILURE);
        };
        let IssuedCoupon { user_id: user, coupon, .. } = issued;
        match database.void_coupon(uid, &coupon, &self.actor, &self.reason).await? {
            VoidOutcome::Voided => writeln!(Stdout, "voided the coupon {coupon} of {user}")?,
            VoidOutcome::AlreadyVoided => writeln!(Stdout, "the coupon {coupon} of {user} was voided before")?,
            VoidOutcome::Refused(refusal) => {
                let advice = if matches!(refusal, Refusal::Redeemed { .. }) { ", so it cannot be voided" } else { "" };
                writeln!(Stdout, "{refusal}{advice}: {coupon} of {user}. Nothing was changed.")?;
                return Ok(ExitCode::FAILURE);
            }
            VoidOutcome::NotRecorded => anyhow::bail!("the event was deleted from Postgres meanwhile"),
        }
        couponry_failpoint::crash("operator.before-void-in-redis");
        if let Err(error) = voids::apply(&redis_store, &event.name, uid, vec![(user, coupon)]).await {
            writeln!(
                Stderr,
                "Redis is not available: {}. The operator applies the void to it within a minute after it is available; \
                 until then, the user still receives the coupon as DUPLICATE. No redeemer accepts it.",
                error_chain(error)
            );
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The coupon and its user, whose issuance is recorded if it was not yet. None: the coupon is not issued.
    async fn recorded(
        &self,
        event: &StoredEvent,
        database: &Database,
        redis_store: &RedisStore,
    ) -> anyhow::Result<Option<IssuedCoupon>> {
        let (users, codes) = (self.coupon.user.as_slice(), self.coupon.code.as_slice());
        if let Some(found) = database.find_issuances(event.uid, users, codes).await?.into_iter().next() {
            return Ok(Some(found.issued));
        }
        let issued = self.issued_in_redis(event, database, redis_store).await;
        let issued = issued.context("Postgres has no issuance of the coupon, and it is not known whether Redis has")?;
        let Some(issued) = issued else {
            // Recorded, and removed from Redis, between the two reads.
            let found = database.find_issuances(event.uid, users, codes).await?;
            return Ok(found.into_iter().next().map(|found| found.issued));
        };
        let recorded = database.record_again(event, std::slice::from_ref(&issued)).await?;
        let recorded = recorded.context("a recovery of Redis has started meanwhile: repeat the command")?;
        ensure!(
            recorded.contains(&issued.user_id),
            "the issuance in Redis cannot be recorded, because Postgres has another coupon for the user, or another user \
             for the coupon: compare the stores with `kubectl couponry audit`"
        );
        Ok(Some(issued))
    }

    /// The issued coupon in Redis. Only a verified Redis has all issuances that are not recorded.
    async fn issued_in_redis(
        &self,
        event: &StoredEvent,
        database: &Database,
        redis_store: &RedisStore,
    ) -> anyhow::Result<Option<IssuedCoupon>> {
        let observed = redis_store.observe(&event.name).await?.filter(|observed| observed.uid == event.uid);
        let Some(observed) = observed else {
            // Otherwise Redis has lost the event, and with it issuances whose records are still on their way.
            let is_deleted = |known: &KnownEvent| known.uid == event.uid && known.is_deleted;
            let has_no_issuance = event.opens_at.is_none() || database.known_events().await?.iter().any(is_deleted);
            ensure!(has_no_issuance, "Redis has lost the event: repeat the command when the event is ready");
            return Ok(None);
        };
        if observed.retired.is_some() {
            return Ok(None);
        }
        ensure!(observed.is_verified, "Redis is not verified: repeat the command when the event is ready");
        let mut found = None;
        if let Some(user) = &self.coupon.user {
            let lookup = redis_store.lookup(&event.name, user).await?;
            let lookup = lookup.filter(|lookup| lookup.uid == event.uid);
            ensure!(
                lookup.as_ref().is_none_or(|lookup| lookup.is_verified),
                "Redis is not verified: repeat the command when the event is ready"
            );
            found = lookup.and_then(|Lookup { entry, .. }| entry);
        } else if let Some(code) = &self.coupon.code {
            let visit = |entry| match entry {
                Ok(entry @ IssuedEntry { .. }) if entry.issued.coupon == *code => found = Some(entry),
                _ => {}
            };
            redis_store.each_issued(&event.name, visit).await?;
        }
        Ok(found.filter(|entry| entry.status != IssuedStatus::Cancelled).map(|entry| entry.issued))
    }
}

fn parse_reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.len() > MAX_REASON {
        return Err(format!("it has more than {MAX_REASON} bytes"));
    }
    if text.contains(char::is_control) {
        return Err("it has control characters".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_one_line_of_text() {
        assert_eq!(parse_reason(" sold on a marketplace "), Ok("sold on a marketplace".to_owned()));
        for invalid in ["", "  ", "a\nb", "a\0", &"x".repeat(501)] {
            assert!(parse_reason(invalid).is_err(), "{invalid:?}");
        }
    }
}
