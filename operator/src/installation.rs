//! The installation that the stores belong to.
//!
//! Postgres has the id of the installation and its owner, a Kubernetes namespace; Redis has the id. An operator of
//! another namespace, or of a database that does not belong to the Redis, changes nothing: it could remove the coupons
//! of live events ([ADR 0027](../../docs/adr/0027-installations.md)).

use std::error::Error;

use couponry_domain::Uuid;
use couponry_postgres::{Database, DatabaseError, Installation, Owner};
use couponry_redis::{RedisStore, RedisStoreError};
use couponry_runtime::error_chain;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};

/// The stores belong to another installation.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ForeignInstallation {
    #[error(
        "the database belongs to the installation {id} of {owner}, but this operator runs in {own}. Use another \
         database (and another --redis-key-prefix); or, if that installation no longer runs, take it over with \
         `couponry-operator take-over`"
    )]
    Owner { id: Uuid, owner: Owner, own: Owner },
    #[error(
        "Redis belongs to the installation {redis}, but the database to the installation {postgres}. Set a different \
         --redis-key-prefix for each installation; if the database was lost, restore it from a backup, because a new \
         one has no record of the issued coupons"
    )]
    Redis { redis: Uuid, postgres: Uuid },
}

/// Why an installation cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error(transparent)]
    ForeignInstallation(#[from] ForeignInstallation),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Redis(#[from] RedisStoreError),
}

/// The identity of this Kubernetes namespace.
pub(crate) async fn owner(client: &Client, namespace: &str) -> Result<Owner, Box<dyn Error + Send + Sync>> {
    let found = Api::<Namespace>::all(client.clone()).get_metadata(namespace).await;
    let found = found.map_err(|error| format!("cannot read the namespace {namespace}: {error}"))?;
    let uid = found.metadata.uid.ok_or_else(|| format!("the namespace {namespace} has no uid"))?;
    Ok(Owner { namespace: namespace.to_owned(), uid })
}

/// Claims the stores for `owner`, and returns the id of their installation.
pub(crate) async fn claim(database: &Database, redis_store: &RedisStore, owner: &Owner) -> Result<Uuid, ClaimError> {
    claim_redis(&database.claim_installation(owner).await?, redis_store, owner).await
}

/// Fails if Postgres or Redis belongs to another installation. Claims a Redis without an id: it is new, or has lost its
/// data.
pub(crate) async fn claim_redis(
    installation: &Installation,
    redis_store: &RedisStore,
    owner: &Owner,
) -> Result<Uuid, ClaimError> {
    if couponry_failpoint::is_on("operator.ignore-installation") {
        return Ok(installation.id);
    }
    require_owner(installation, owner)?;
    match redis_store.claim_installation(installation.id).await {
        Ok(redis) => require_redis(installation, redis)?,
        // Its id is on a node of the cluster that is unavailable. The events of the others must not wait; steps compare
        // the uid of each event, so those of another installation remain unchanged until the id can be read.
        Err(error) if redis_store.ping().await.is_err_and(|error| error.is_partial_outage()) => {
            tracing::warn!(error = error_chain(error), "cannot check the installation of Redis, retrying");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(installation.id)
}

/// Fails if another owner has claimed the installation.
pub(crate) fn require_owner(Installation { id, owner }: &Installation, own: &Owner) -> Result<(), ForeignInstallation> {
    match owner {
        Some(owner) if owner.uid != own.uid => {
            Err(ForeignInstallation::Owner { id: *id, owner: owner.clone(), own: own.clone() })
        }
        _ => Ok(()),
    }
}

/// Fails if Redis belongs to another installation.
pub(crate) fn require_redis(Installation { id, .. }: &Installation, redis: Uuid) -> Result<(), ForeignInstallation> {
    if redis == *id { Ok(()) } else { Err(ForeignInstallation::Redis { redis, postgres: *id }) }
}
