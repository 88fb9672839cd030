//! `couponry-operator purge --older-than AGE`: deletes the rows of events whose resource was deleted long ago.
//!
//! # Guarantees
//! Without `--yes` nothing is deleted. Only events that the operator has marked as deleted are purged. Those that exist
//! in the cluster, or whose keys are in Redis, are kept.

use std::{collections::HashSet, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args;
use couponry_crds::stored_identity;
use couponry_domain::Uuid;
use couponry_output::Stdout;
use couponry_postgres::{Database, RetainedEvent};
use kube::api::ListParams;

use crate::{
    commands::{args::InstallationArgs, format::group_digits},
    installation,
};

const DAY: u64 = 24 * 60 * 60;
/// Longer ages are most likely a mistake.
const MAX_DAYS: u64 = 36_500;

#[derive(Debug, Args)]
pub(crate) struct Purge {
    /// Time since the deletion of the event: a number of days or hours, such as `90d` or `12h`.
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    older_than: Duration,
    /// Delete the rows. Default: only list the events.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    pub(crate) installation: InstallationArgs,
}

impl Purge {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let (database, redis_store) = self.installation.stores()?;
        let retained = database.retained_events(self.older_than).await?;
        let existing = self.existing_events(&database).await?;
        let (mut events, mut rows) = (0, 0);
        for RetainedEvent { uid, name, deleted_for, coupons, issuances, unsent_uses } in retained {
            if existing.contains(&uid) {
                continue;
            }
            let days = deleted_for.as_secs() / DAY;
            let (n_coupons, n_issuances) = (group_digits(coupons), group_digits(issuances));
            writeln!(Stdout, "  {name}  {uid}  {days} days  {n_coupons} coupons  {n_issuances} issuances")?;
            if redis_store.observe(&name).await?.is_some_and(|in_redis| in_redis.uid == uid) {
                writeln!(Stdout, "    kept: Redis still has this event")?;
                continue;
            }
            let unsent_uses = if self.yes {
                // From now on, none is added.
                database.start_purge(uid, &name).await?;
                database.unsent_uses(uid).await?
            } else {
                unsent_uses
            };
            if unsent_uses > 0 {
                let count = group_digits(unsent_uses);
                writeln!(
                    Stdout,
                    "    uses of its coupons that were not sent to Kafka, and are lost with its rows: {count}"
                )?;
            }
            if self.yes {
                database.delete_event(uid, &name).await?;
            }
            events += 1;
            rows += coupons + issuances;
        }
        let (noun, pronoun) = if events == 1 { ("event", "it") } else { ("events", "them") };
        let count = format!("{} {noun} with {} rows", group_digits(events), group_digits(rows));
        match (events, self.yes) {
            (0, _) => writeln!(Stdout, "nothing to delete")?,
            (_, true) => writeln!(Stdout, "deleted {count}")?,
            (_, false) => writeln!(Stdout, "{count}: nothing was deleted; repeat with --yes to delete {pronoun}")?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The events of the namespace, which must own the database.
    async fn existing_events(&self, database: &Database) -> anyhow::Result<HashSet<Uuid>> {
        let (events, owner) = self.installation.events().await?;
        installation::require_owner(&database.installation().await?, &owner)?;
        let events = events.list_metadata(&ListParams::default()).await.context("cannot list the CouponEvents")?;
        // An event that continues another one has the uid of that one in the stores.
        let uids = events.items.into_iter().map(|event| {
            let name = event.metadata.name.clone().unwrap_or_default();
            let identity = stored_identity(&event.metadata);
            identity.map(|(uid, _)| uid).with_context(|| format!("the CouponEvent {name:?} has no valid uid"))
        });
        uids.collect()
    }
}

fn parse_age(text: &str) -> Result<Duration, String> {
    let units = [("d", DAY), ("h", 60 * 60)];
    let found =
        units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?.parse::<u64>().ok()?, *seconds)));
    let seconds = found.and_then(|(number, seconds)| number.checked_mul(seconds)).filter(|age| *age <= MAX_DAYS * DAY);
    seconds.map(Duration::from_secs).ok_or_else(|| "expected a number of days or hours, such as 90d or 12h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_a_number_of_days_or_hours() {
        assert_eq!(parse_age("90d"), Ok(Duration::from_hours(90 * 24)));
        assert_eq!(parse_age("12h"), Ok(Duration::from_hours(12)));
        for invalid in ["", "d", "90", "90m", "-1d", "1.5d", "99999999999999999999d", "213503982334602d"] {
            assert!(parse_age(invalid).is_err(), "{invalid}");
        }
    }
}
