//! The schema version of the database.

use crate::{
    connection::{Database, migrations},
    error::DatabaseError,
};

/// The schema version, as the numbers of the migrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemaVersion {
    /// The latest applied migration; 0 if there is none.
    pub applied: i64,
    /// The latest migration of this version of Couponry.
    pub known: i64,
    /// How many migrations of this version of Couponry are not applied.
    pub missing: usize,
}

impl Database {
    /// The schema version of the database.
    pub async fn schema_version(&self) -> Result<SchemaVersion, DatabaseError> {
        let applied = self.applied_migrations().await?;
        let known: Vec<i64> = migrations().iter().map(|migration| migration.version).collect();
        Ok(SchemaVersion {
            applied: applied.iter().copied().max().unwrap_or(0),
            known: known.iter().copied().max().unwrap_or(0),
            missing: known.iter().filter(|version| !applied.contains(version)).count(),
        })
    }
}
