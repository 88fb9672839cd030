//! The schema version and the settings of the database.

use sqlx::Row as _;

use crate::{
    connection::{Database, migrations},
    error::{DatabaseError, Operation},
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

/// The settings of the server that the guarantees depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// The encoding of the database.
    pub encoding: String,
    /// The version of the server, for example `15.18`.
    pub version: String,
    /// The major version of the server.
    pub major_version: i32,
    /// Settings of the server or the role that can lose committed rows, with their values.
    pub unsafe_settings: Vec<String>,
    /// The role of the programs.
    pub role: String,
    /// Whether the role may create tables in its schema: the stock of each event is a table of its own.
    pub can_create_tables: bool,
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

    /// The settings of the server.
    pub async fn server_settings(&self) -> Result<ServerSettings, DatabaseError> {
        self.with_connection(Operation::ReadSettings, async |connection| {
            let row = sqlx::query(
                "SELECT current_setting('server_encoding') AS encoding,
                        current_setting('server_version') AS version,
                        current_setting('server_version_num')::integer / 10000 AS major_version,
                        array(SELECT name || ' = ' || setting FROM pg_settings
                              WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'
                              ORDER BY name) AS unsafe_settings,
                        current_user::text AS role,
                        coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS can_create_tables",
            )
            .fetch_one(connection)
            .await?;
            Ok(ServerSettings {
                encoding: row.try_get("encoding")?,
                version: row.try_get("version")?,
                major_version: row.try_get("major_version")?,
                unsafe_settings: row.try_get("unsafe_settings")?,
                role: row.try_get("role")?,
                can_create_tables: row.try_get("can_create_tables")?,
            })
        })
        .await
    }

    /// When the server was started, in microseconds since the Unix epoch. Another value means that Postgres was
    /// restarted, or that another server has replaced it: both may have lost commits.
    pub async fn server_start(&self) -> Result<i64, DatabaseError> {
        self.with_connection(Operation::ReadSettings, async |connection| {
            sqlx::query_scalar("SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint")
                .fetch_one(connection)
                .await
        })
        .await
    }

    /// Fails if the encoding of the database is not UTF8.
    pub async fn require_utf8(&self) -> Result<(), DatabaseError> {
        let encoding: String = self
            .with_connection(Operation::ReadSettings, async |connection| {
                sqlx::query_scalar("SELECT current_setting('server_encoding')").fetch_one(connection).await
            })
            .await?;
        if encoding == "UTF8" { Ok(()) } else { Err(DatabaseError::Encoding(encoding)) }
    }
}
