//! `couponry-operator take-over`: makes this Kubernetes namespace the owner of the stores, and its events the
//! continuation of the stored ones.
//!
//! For a namespace or a cluster that was restored: the namespace and the events have other uids than before, or an
//! older generation than the stores have seen.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Args;
use couponry_crds::{CONTINUES, CouponEvent, stored_identity};
use couponry_domain::{EventName, Uuid};
use couponry_output::Stdout;
use couponry_postgres::{Database, Installation, Owner};
use kube::{
    Api,
    api::{ListParams, ObjectMeta, Patch, PatchParams},
};
use serde_json::json;

use crate::{commands::args::InstallationArgs, installation};

#[derive(Debug, Args)]
pub(crate) struct TakeOver {
    /// Take over. Without it, print what would change.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    pub(crate) installation: InstallationArgs,
}

/// The state in the stores of an event of the namespace.
#[derive(Debug, PartialEq, Eq)]
enum Continuation {
    /// The stores have no event of this name, or this very event.
    NotRequired,
    /// The event continues the stored event with this uid; its generations follow this one.
    Of(Uuid, i64),
    /// Several stored events have this name.
    Ambiguous(Vec<Uuid>),
}

impl TakeOver {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let (database, redis_store) = self.installation.stores()?;
        let (events, own) = self.installation.events().await?;
        let installation = database.installation().await?;
        if let Some(id) = redis_store.installation().await? {
            installation::require_redis(&installation, id)?;
        }
        let is_owner = self.take_installation(&database, &installation, &own).await?;
        let are_continued = self.continue_events(&database, &events).await?;
        Ok(if is_owner && are_continued { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Returns whether the namespace is the owner.
    async fn take_installation(
        &self,
        database: &Database,
        installation: &Installation,
        own: &Owner,
    ) -> anyhow::Result<bool> {
        let id = installation.id;
        match &installation.owner {
            Some(owner) if owner.uid == own.uid => {
                writeln!(Stdout, "The installation {id} belongs to {own} already.")?;
                return Ok(true);
            }
            Some(owner) => {
                writeln!(
                    Stdout,
                    "The installation {id} belongs to {owner}. Its operator stops within seconds after the take-over."
                )?;
            }
            None => writeln!(Stdout, "The installation {id} has no owner.")?,
        }
        if !self.yes {
            writeln!(Stdout, "With --yes, it will belong to {own}.")?;
            return Ok(false);
        }
        ensure!(database.take_over_installation(installation, own).await?, "another command took it over: repeat it");
        writeln!(Stdout, "It belongs to {own} now.")?;
        Ok(true)
    }

    /// Returns whether all events continue the stored ones.
    async fn continue_events(&self, database: &Database, events: &Api<CouponEvent>) -> anyhow::Result<bool> {
        let mut are_continued = true;
        let found = events.list_metadata(&ListParams::default()).await.context("cannot list the CouponEvents")?;
        for metadata in found.items.into_iter().map(|event| event.metadata) {
            let Some(name) = metadata.name.as_deref() else { continue };
            match continuation(database, &metadata).await? {
                Continuation::NotRequired => {}
                Continuation::Of(uid, generation) if self.yes => {
                    // Not the resourceVersion, which the operator changes meanwhile by writing the status.
                    let annotation = json!({"metadata": {
                        "uid": metadata.uid,
                        "annotations": {CONTINUES: format!("{uid}/{generation}")},
                    }});
                    let patched = events.patch_metadata(name, &PatchParams::default(), &Patch::Merge(annotation)).await;
                    patched.with_context(|| format!("cannot annotate the event {name}"))?;
                    writeln!(Stdout, "The event {name} continues the stored event {uid}.")?;
                }
                Continuation::Of(uid, _) => {
                    are_continued = false;
                    writeln!(Stdout, "With --yes, the event {name} will continue the stored event {uid}.")?;
                }
                Continuation::Ambiguous(uids) => {
                    are_continued = false;
                    let uids: Vec<String> = uids.iter().map(Uuid::to_string).collect();
                    writeln!(
                        Stdout,
                        "The event {name} can continue one of the stored events {}: select it with the annotation \
                         {CONTINUES}: UID/GENERATION (columns of coupon_event).",
                        uids.join(", ")
                    )?;
                }
            }
        }
        Ok(are_continued)
    }
}

async fn continuation(database: &Database, metadata: &ObjectMeta) -> anyhow::Result<Continuation> {
    let name = metadata.name.as_deref().unwrap_or_default();
    let name: EventName = name.parse().with_context(|| format!("the name {name} of an event is not valid"))?;
    let (own, own_generation) = stored_identity(metadata)
        .with_context(|| format!("the annotation {CONTINUES} of the event {name} is not valid"))?;
    if let Some(stored) = database.event(own).await? {
        // The object may have been restored from before its last changes.
        return Ok(if stored.generation > own_generation {
            Continuation::Of(own, stored.generation)
        } else {
            Continuation::NotRequired
        });
    }
    Ok(match &database.events_not_deleted(&name).await?[..] {
        [] => Continuation::NotRequired,
        [(uid, generation)] => Continuation::Of(*uid, *generation),
        several => Continuation::Ambiguous(several.iter().map(|(uid, _)| *uid).collect()),
    })
}
