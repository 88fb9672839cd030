//! `couponry-operator erase-user USER`: replaces a user by pseudonyms
//! ([ADR 0030](../../../docs/adr/0030-voids-and-erasures.md)).
//!
//! # Guarantees
//! - Idempotent. An error leaves some events as they are, and the command can be repeated.
//! - Postgres first, then Redis. The coupon stays issued, and the user receives no other one of an event in which the
//!   user had one.
//! - An issuance that only Redis has is recorded before, so that its record in Kafka has no effect any more.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Args;
use couponry_domain::{PseudonymKey, UserId};
use couponry_output::Stdout;
use couponry_postgres::{Database, KnownEvent, StoredEvent};
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
        let mut count = 0;
        for KnownEvent { uid, name, is_deleted } in database.known_events().await? {
            // Read before Redis, so that a recovery that starts after it prevents the recording.
            let Some(event) = database.event(uid).await? else { continue };
            let erased = self.erase(&event, is_deleted, &database, &redis_store).await;
            if erased
                .with_context(|| format!("the user is not erased in the event {name} ({uid}): repeat the command"))?
            {
                count += 1;
                writeln!(Stdout, "  {name}  {uid}")?;
            }
        }
        let events = format!("{} event{}", group_digits(count), if count == 1 { "" } else { "s" });
        if self.dry_run {
            writeln!(Stdout, "{events}: nothing was changed; repeat without --dry-run to erase the user")?;
        } else {
            writeln!(Stdout, "erased the user in {events}")?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Erases the user in one event. Returns whether the user had a coupon of it.
    async fn erase(
        &self,
        event: &StoredEvent,
        is_deleted: bool,
        database: &Database,
        redis_store: &RedisStore,
    ) -> anyhow::Result<bool> {
        let (StoredEvent { uid, name, .. }, user) = (event, &self.user);
        let observed = redis_store.observe(name).await?.filter(|observed| observed.uid == *uid);
        // Only a verified Redis has all issuances that are not recorded.
        let is_complete = match &observed {
            Some(observed) => observed.is_verified || observed.retired.is_some(),
            None => is_deleted || event.opens_at.is_none(),
        };
        ensure!(is_complete, "Redis is not verified for the event");
        let entry = match &observed {
            Some(_) => redis_store.lookup(name, user).await?.and_then(|lookup| lookup.entry),
            None => None,
        };
        let is_recorded = database.issuance_of(*uid, user).await?.is_some();
        if self.dry_run || (!is_recorded && entry.is_none()) {
            return Ok(is_recorded || entry.is_some());
        }
        if let Some(IssuedEntry { issued, status: IssuedStatus::Pending }) = entry {
            let recorded = database.record_again(event, std::slice::from_ref(&issued)).await?;
            let recorded = recorded.context("a recovery of Redis has started meanwhile")?;
            ensure!(
                recorded.contains(user),
                "the issuance in Redis cannot be recorded: compare the stores with `audit`"
            );
            let settlement =
                Settlement { user: user.clone(), coupon: issued.coupon, outcome: SettlementOutcome::Completed };
            redis_store.settle(name, *uid, &[settlement]).await?;
        }
        let key = PseudonymKey::of(&event.seed);
        database.erase_user(*uid, user, &key.pseudonym(user)).await?;
        couponry_failpoint::crash("operator.before-erasure-in-redis");
        let in_redis = redis_store.erase_user(name, *uid, user, &key).await?;
        ensure!(
            in_redis != FencedWrite::Applied(ErasedUser::Pending),
            "Redis has issued a coupon to the user meanwhile"
        );
        Ok(true)
    }
}
