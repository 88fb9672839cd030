//! The pool of connections, transactions on it, and the migrations.

use std::{future::Future, str::FromStr as _, time::Duration};

use couponry_settings::PostgresSettings;
use sqlx::{
    Connection as _, PgConnection, Postgres, Transaction,
    migrate::{MigrateError, Migrator},
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode},
};

use crate::{DatabaseError, Operation};

/// All migrations that this version knows. A database that a later version has migrated further is fine: they only add.
pub(crate) fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!("../../migrations");
    migrations.set_ignore_missing(true);
    migrations
}

/// How long a call waits for a connection: one that is free, or a new one.
const ACQUIRE_WITHIN: Duration = Duration::from_secs(5);

/// How long finding out why there is no connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// How long a call that is over in milliseconds may take before the way to Postgres is taken for broken.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The database. A clone shares the connections.
#[derive(Clone, Debug)]
pub struct Database {
    pub(crate) pool: PgPool,
}

impl Database {
    /// The database at this URL, that needs nothing else. Does not connect yet: fails only when it is no Postgres URL.
    pub fn connect(url: &str) -> Result<Self, DatabaseError> {
        Self::open(&PostgresSettings::at(url))
    }

    /// The database with these settings. Does not connect yet: fails only when the settings are no good.
    pub fn open(settings: &PostgresSettings) -> Result<Self, DatabaseError> {
        let options = PgConnectOptions::from_str(settings.url.reveal()).map_err(DatabaseError::Url)?;
        let mut options = options.application_name("couponry");
        if let Some(password) = &settings.password {
            options = options.password(password.reveal());
        }
        if let Some(authorities) = &settings.authorities {
            options = options.ssl_mode(PgSslMode::VerifyFull).ssl_root_cert_from_pem(authorities.pem().into());
        }
        let pool = PgPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(ACQUIRE_WITHIN)
            .after_connect(|connection, _| {
                Box::pin(async move {
                    // A plan for any event would have to look at the partitions of all events.
                    sqlx::query("SET plan_cache_mode = force_custom_plan").execute(connection).await?;
                    Ok(())
                })
            })
            .connect_lazy_with(options);
        Ok(Self { pool })
    }

    /// Whether Postgres answers.
    pub async fn ping(&self) -> Result<(), DatabaseError> {
        self.ask(Operation::Ping, async |connection| sqlx::query("SELECT 1").execute(connection).await).await?;
        Ok(())
    }

    /// Brings the tables up to date. Safe when several programs do it at once: the later ones wait.
    pub async fn migrate(&self) -> Result<(), DatabaseError> {
        // sqlx holds a lock of its session, and keeps it after an error. This session ends here in any case.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_WITHIN)
            .connect_lazy_with(self.pool.connect_options().as_ref().clone());
        let migrated = migrations().run(&pool).await;
        pool.close().await;
        migrated.map_err(|error| match error {
            MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => {
                DatabaseError::Postgres { operation: Operation::Migrate, cause }
            }
            other => DatabaseError::Migrate(other),
        })
    }

    /// Whether the tables are those of this version. They may be of a later one as well.
    pub async fn is_migrated(&self) -> Result<bool, DatabaseError> {
        let applied = self.applied_migrations().await?;
        Ok(migrations().iter().all(|migration| applied.contains(&migration.version)))
    }

    pub(crate) async fn applied_migrations(&self) -> Result<Vec<i64>, DatabaseError> {
        self.ask(Operation::Ping, async |connection| {
            let bookkeeping: Option<String> =
                sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations')::text").fetch_one(&mut *connection).await?;
            if bookkeeping.is_none() {
                return Ok(Vec::new());
            }
            sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success").fetch_all(connection).await
        })
        .await
    }

    /// Asks what Postgres can answer at once, without a transaction.
    pub(crate) async fn ask<T>(
        &self,
        operation: Operation,
        question: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, DatabaseError> {
        answered(operation, async {
            let mut session = self.session(operation).await?;
            let answer = question(&mut session.connection).await.map_err(DatabaseError::at(operation))?;
            session.finish();
            Ok(answer)
        })
        .await
    }

    pub(crate) async fn session(&self, operation: Operation) -> Result<Session, DatabaseError> {
        match self.pool.acquire().await {
            Ok(connection) => Ok(Session { connection, operation, finished: false }),
            Err(sqlx::Error::PoolTimedOut) => Err(self.why_no_connection(operation).await),
            Err(cause) => Err(DatabaseError::at(operation)(cause)),
        }
    }

    /// The pool tries to connect until its time is up, and then does not say what kept it from it.
    async fn why_no_connection(&self, operation: Operation) -> DatabaseError {
        let options = self.pool.connect_options();
        match tokio::time::timeout(CONNECT_WITHIN, PgConnection::connect_with(&options)).await {
            Ok(Err(cause)) => DatabaseError::at(operation)(cause),
            // All connections were busy, or Postgres came back just now.
            Ok(Ok(_)) => DatabaseError::at(operation)(sqlx::Error::PoolTimedOut),
            Err(_) => DatabaseError::TimedOut(operation),
        }
    }
}

/// Waits for what Postgres should do at once. A connection whose other end vanished gives no error of its own.
pub(crate) async fn answered<T>(
    operation: Operation,
    call: impl Future<Output = Result<T, DatabaseError>>,
) -> Result<T, DatabaseError> {
    tokio::time::timeout(ANSWER_WITHIN, call).await.unwrap_or(Err(DatabaseError::TimedOut(operation)))
}

/// A connection for more than one statement. It goes back to the pool by [`Session::finish`] only; otherwise (an error, or
/// a caller that dropped the future somewhere in between) it is closed, and Postgres rolls back. In sqlx 0.9.0, a
/// connection that was dropped while it began a transaction would stay inside it for its next user.
pub(crate) struct Session {
    connection: PoolConnection<Postgres>,
    operation: Operation,
    finished: bool,
}

impl Session {
    pub(crate) async fn begin(&mut self) -> Result<Transaction<'_, Postgres>, DatabaseError> {
        self.connection.begin().await.map_err(DatabaseError::at(self.operation))
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    pub(crate) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.finished {
            self.connection.close_on_drop();
        }
    }
}
