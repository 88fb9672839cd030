//! `couponry-operator erase-user USER`: replaces a user by pseudonyms
//! ([ADR 0030](../../../docs/adr/0030-voids-and-erasures.md)).
//!
//! # Guarantees
//! - Idempotent. A failure affects its event only, is reported, and the command can be repeated.
//! - Postgres first, then Redis. The erasure is pending until the entry in Redis is replaced, or Redis has no such
//!   event; the operator completes the others (`pending_erasures.rs`). The coupon stays issued, and the user receives
//!   no other one of an event in which the user had one.
//! - An issuance that only Redis has is recorded before, so that its record in Kafka has no effect any more.

use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use couponry_domain::{PseudonymKey, UserId, Uuid};
use couponry_output::{Stderr, Stdout};
use couponry_postgres::{Database, KnownEvent};
use couponry_redis::{ErasedUser, FencedWrite, IssuedEntry, IssuedStatus, RedisStore, Settlement, SettlementOutcome};

use crate::{
    commands::{args::InstallationArgs, format::group_digits},
    installation,
};

#[derive(Debug, Args)]
pub(crate) struct EraseUser {
    /// The user to erase.
    #[arg(value_name = "USER")]
    user: UserId,
    /// Only list the events in which the user has a coupon.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(crate) installation: InstallationArgs,
}

impl EraseUser {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        ensure!(!self.user.is_pseudonym(), "the user is a pseudonym already");
        let (database, redis_store) = self.installation.stores()?;
        let (_, owner) = self.installation.events().await?;
        installation::require_owner(&database.installation().await?, &owner)?;
        let (mut count, mut failed) = (0, 0);
        for KnownEvent { uid, name, is_deleted } in database.known_events().await? {
            match self.erase(uid, is_deleted, &database, &redis_store).await {
                Ok(false) => {}
                Ok(true) => {
                    count += 1;
                    writeln!(Stdout, "  {name}  {uid}")?;
                }
                Err(error) => {
                    failed += 1;
                    writeln!(Stderr, "the user is not erased in the event {name} ({uid}): {error:#}");
                }
            }
        }
        let events = count_events(count);
        if self.dry_run {
            writeln!(Stdout, "{events}: nothing was changed; repeat without --dry-run to erase the user")?;
        } else {
            writeln!(Stdout, "erased the user in {events}")?;
        }
        ensure!(failed == 0, "{} failed: repeat the command", count_events(failed));
        Ok(ExitCode::SUCCESS)
    }

    /// Erases the user in one event. Returns whether the user had a coupon of it.
    async fn erase(
        &self,
        uid: Uuid,
        is_deleted: bool,
        database: &Database,
        redis_store: &RedisStore,
    ) -> anyhow::Result<bool> {
        // Read before Redis, so that a recovery that starts after it prevents the recording.
        let Some(event) = database.event(uid).await? else { return Ok(false) };
        let (name, user) = (&event.name, &self.user);
        let observed = redis_store.observe(name).await?.filter(|observed| observed.uid == uid);
        // Only a verified Redis has all issuances that are not recorded. That of a deleted event is not verified any
        // more, and what it has lost is not restored.
        let is_complete = is_deleted
            || match &observed {
                Some(observed) => observed.is_verified || observed.retired.is_some(),
                None => event.opens_at.is_none(),
            };
        ensure!(is_complete, "Redis is not verified for the event");
        let entry = match &observed {
            Some(_) => redis_store.lookup(name, user).await?.and_then(|lookup| lookup.entry),
            None => None,
        };
        let is_recorded = database.issuance_of(uid, user).await?.is_some();
        if self.dry_run || (!is_recorded && entry.is_none()) {
            return Ok(is_recorded || entry.is_some());
        }
        if let Some(IssuedEntry { issued, status: IssuedStatus::Pending }) = entry {
            let recorded = database.record_again(&event, std::slice::from_ref(&issued)).await?;
            let recorded = recorded.context("a recovery of Redis has started meanwhile")?;
            ensure!(
                recorded.contains(user),
                "the issuance in Redis cannot be recorded: compare the stores with `audit`"
            );
            let settlement =
                Settlement { user: user.clone(), coupon: issued.coupon, outcome: SettlementOutcome::Completed };
            redis_store.settle(name, uid, &[settlement]).await?;
        }
        let key = PseudonymKey::of(&event.seed);
        let pseudonym = key.pseudonym(user);
        database.erase_user(uid, user, &pseudonym).await?;
        couponry_failpoint::crash("operator.before-erasure-in-redis");
        match redis_store.erase_user(name, uid, user, &key).await? {
            FencedWrite::Applied(ErasedUser::Replaced) => database.finish_erasure(uid, &pseudonym).await?,
            FencedWrite::Stale if observed.is_none() => database.finish_erasure(uid, &pseudonym).await?,
            // The operator finishes it when Redis is known to have no entry.
            FencedWrite::Applied(ErasedUser::Unknown) => {}
            FencedWrite::Applied(ErasedUser::Pending) => bail!("Redis has issued a coupon to the user meanwhile"),
            FencedWrite::Stale => bail!("Redis has lost the event meanwhile"),
        }
        Ok(true)
    }
}

fn count_events(count: u64) -> String {
    format!("{} event{}", group_digits(count), if count == 1 { "" } else { "s" })
}
