//! What a server must be for the guarantees to hold, checked at the start and by `check`.

use std::error::Error;

use couponry_postgres::{Database, ServerSettings};
use couponry_redis::{RedisStore, ServerVersion};

/// The oldest supported major version of `PostgreSQL`.
const MIN_POSTGRES: i32 = 15;

/// A server that cannot be used, and what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found}: {advice}")]
pub(crate) struct Unsuitable {
    pub(crate) found: String,
    pub(crate) advice: String,
}

/// Fails if Postgres is not suitable, or does not respond.
pub(crate) async fn require_postgres(database: &Database) -> Result<(), Box<dyn Error + Send + Sync>> {
    let settings = database.server_settings().await?;
    Ok(postgres_problem(&settings).map_or(Ok(()), Err)?)
}

/// Fails if Redis is not suitable, or does not respond.
pub(crate) async fn require_redis(redis_store: &RedisStore) -> Result<(), Box<dyn Error + Send + Sync>> {
    let versions = redis_store.server_versions().await?;
    Ok(redis_problem(&versions).map_or(Ok(()), Err)?)
}

/// Why this Postgres cannot be used. None: it can.
pub(crate) fn postgres_problem(settings: &ServerSettings) -> Option<Unsuitable> {
    let ServerSettings { encoding, version, major_version, role, can_create_tables, unsafe_settings: _ } = settings;
    let found = format!("PostgreSQL {version}, encoding {encoding}");
    let advice = if encoding != "UTF8" {
        "create the database again with `CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0`".to_owned()
    } else if *major_version < MIN_POSTGRES {
        format!("PostgreSQL {MIN_POSTGRES} or later is required")
    } else if !can_create_tables {
        return Some(Unsuitable {
            found: format!("the role {role} may not create tables in its schema"),
            advice: format!("make {role} the owner of the database, or GRANT CREATE ON SCHEMA public TO {role}"),
        });
    } else {
        return None;
    };
    Some(Unsuitable { found, advice })
}

/// Why one of these Redis servers cannot be used. None: all can.
pub(crate) fn redis_problem(versions: &[ServerVersion]) -> Option<Unsuitable> {
    let unsupported = versions.iter().find(|version| !version.is_supported())?;
    Some(Unsuitable { found: unsupported.to_string(), advice: "Redis 7.0 or later, or Valkey, is required".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsuitable_postgres_is_refused_by_name_and_version() {
        let good = ServerSettings {
            encoding: "UTF8".to_owned(),
            version: "15.18".to_owned(),
            major_version: 15,
            unsafe_settings: Vec::new(),
            role: "couponry".to_owned(),
            can_create_tables: true,
        };
        assert_eq!(postgres_problem(&good), None);
        let problem = |settings| postgres_problem(&settings).unwrap().to_string();
        let old = ServerSettings { version: "14.20".to_owned(), major_version: 14, ..good.clone() };
        assert_eq!(problem(old), "PostgreSQL 14.20, encoding UTF8: PostgreSQL 15 or later is required");
        let encoding = ServerSettings { encoding: "LATIN1".to_owned(), ..good.clone() };
        assert!(problem(encoding).starts_with("PostgreSQL 15.18, encoding LATIN1: create the database again"));
        let role = ServerSettings { can_create_tables: false, ..good };
        assert!(problem(role).starts_with("the role couponry may not create tables"));
    }
}
