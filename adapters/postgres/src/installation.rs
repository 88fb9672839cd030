//! The installation that the database belongs to.
//!
//! Its id is made with the schema and stays with the data, in backups as well. The owner is the Kubernetes namespace
//! whose operator may change the data. While events exist, only [`Database::take_over_installation`] replaces it.

use couponry_domain::Uuid;
use sqlx::{PgConnection, Row as _};

use crate::{
    connection::Database,
    error::{DatabaseError, Operation},
};

const OPERATION: Operation = Operation::ReadInstallation;

/// The installation that the database belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Its id.
    pub id: Uuid,
    /// Its owner. None: no operator has started yet.
    pub owner: Option<Owner>,
}

/// A Kubernetes namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its name.
    pub namespace: String,
    /// Its uid. A namespace of the same name in another cluster, or one that was created again, has another uid.
    pub uid: String,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the namespace {} (uid {})", self.namespace, self.uid)
    }
}

impl Database {
    /// The installation of this database.
    pub async fn installation(&self) -> Result<Installation, DatabaseError> {
        self.with_connection(OPERATION, async |connection| read(connection).await).await
    }

    /// Makes `owner` the owner if there is none yet, and returns the installation. The caller compares the owner.
    ///
    /// An owner of the same name is replaced, too, if all events were deleted: its namespace was deleted and created
    /// again, and no coupon can be affected.
    pub async fn claim_installation(&self, owner: &Owner) -> Result<Installation, DatabaseError> {
        self.with_connection(OPERATION, async |connection| {
            sqlx::query(
                "UPDATE installation SET namespace = $1, namespace_uid = $2
                 WHERE namespace_uid IS NULL
                    OR namespace = $1 AND namespace_uid <> $2
                       AND NOT EXISTS (SELECT FROM coupon_event WHERE resource_deleted_at IS NULL AND NOT is_purging)",
            )
            .bind(&owner.namespace)
            .bind(&owner.uid)
            .execute(&mut *connection)
            .await?;
            read(connection).await
        })
        .await
    }

    /// Replaces the owner. Returns false, and changes nothing, if the installation is not `current` any more.
    pub async fn take_over_installation(&self, current: &Installation, owner: &Owner) -> Result<bool, DatabaseError> {
        let taken = self
            .with_connection(Operation::TakeOver, async |connection| {
                sqlx::query(
                    "UPDATE installation SET namespace = $1, namespace_uid = $2
                     WHERE id = $3 AND namespace_uid IS NOT DISTINCT FROM $4",
                )
                .bind(&owner.namespace)
                .bind(&owner.uid)
                .bind(current.id)
                .bind(current.owner.as_ref().map(|owner| &owner.uid))
                .execute(connection)
                .await
            })
            .await?;
        Ok(taken.rows_affected() == 1)
    }
}

async fn read(connection: &mut PgConnection) -> Result<Installation, sqlx::Error> {
    let row = sqlx::query("SELECT id, namespace, namespace_uid FROM installation").fetch_one(connection).await?;
    let owner = match (row.try_get("namespace")?, row.try_get("namespace_uid")?) {
        (Some(namespace), Some(uid)) => Some(Owner { namespace, uid }),
        _ => None,
    };
    Ok(Installation { id: row.try_get("id")?, owner })
}
