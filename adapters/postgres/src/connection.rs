//! The connection pool, its sessions, and the migrations.

use std::{future::Future, str::FromStr as _, sync::Arc, time::Duration};

use couponry_settings::{ExposeSecret as _, PostgresSettings};
use sqlx::{
    Connection as _, PgConnection, Postgres, Transaction,
    migrate::{MigrateError, Migrator},
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode},
};
use tokio::sync::Semaphore;

use crate::{
    error::{DatabaseError, DriverError, Operation},
    session_settings::{LONG, LOOKUP, MIGRATION, SHORT, SessionSettings},
};

/// The migrations of this version. A later version may have applied more of them: migrations only add.
pub(crate) fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!("../../migrations");
    migrations.set_ignore_missing(true);
    migrations
}

/// How long an operation waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Timeout of the diagnostic connection attempt after the pool has timed out.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The connections of each pool.
const MAX_CONNECTIONS: u32 = 8;

/// Timeout of operations that usually take milliseconds. Longer than the `statement_timeout` of its session, so that
/// Postgres ends a slow statement before its client stops waiting.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);

/// The database. A clone shares the connections.
#[derive(Clone, Debug)]
pub struct Database {
    /// For short operations.
    pool: PgPool,
    /// For statements that look up single rows by unique indexes.
    lookup_pool: PgPool,
    /// For operations that may take minutes. They have connections of their own, so that short ones never wait for
    /// them.
    pub(crate) long_pool: PgPool,
    /// Limits the diagnostic connections to one.
    diagnosis: Arc<Semaphore>,
}

impl Database {
    /// The database at this URL, without further settings. Connects lazily: fails only if the URL is invalid.
    pub fn connect(url: &str) -> Result<Self, DatabaseError> {
        Self::open(&PostgresSettings::at(url))
    }

    /// The database with these settings. Connects lazily: fails only if the settings are invalid.
    pub fn open(settings: &PostgresSettings) -> Result<Self, DatabaseError> {
        let options = PgConnectOptions::from_str(settings.url.expose_secret())
            .map_err(|error| DatabaseError::Url(DriverError(error)))?;
        let mut options = options.application_name("couponry");
        if let Some(password) = &settings.password {
            options = options.password(password.expose_secret());
        }
        if let Some(certificates) = &settings.ca_certificates {
            options = options.ssl_mode(PgSslMode::VerifyFull).ssl_root_cert_from_pem(certificates.pem().into());
        }
        Ok(Self {
            pool: connect_lazy(options.clone(), MAX_CONNECTIONS, SHORT),
            lookup_pool: connect_lazy(options.clone(), MAX_CONNECTIONS, LOOKUP),
            long_pool: connect_lazy(options, MAX_CONNECTIONS, LONG),
            diagnosis: Arc::new(Semaphore::new(1)),
        })
    }

    /// Fails if Postgres does not respond.
    pub async fn ping(&self) -> Result<(), DatabaseError> {
        self.with_connection(Operation::Ping, async |connection| sqlx::query("SELECT 1").execute(connection).await)
            .await?;
        Ok(())
    }

    /// Fails if Postgres does not respond, or does not accept writes, such as a standby.
    pub async fn ping_writable(&self) -> Result<(), DatabaseError> {
        let is_read_only: bool = self
            .with_connection(Operation::Ping, async |connection| {
                sqlx::query_scalar("SELECT current_setting('transaction_read_only')::boolean")
                    .fetch_one(connection)
                    .await
            })
            .await?;
        if is_read_only { Err(DatabaseError::ReadOnly) } else { Ok(()) }
    }

    /// Applies the missing migrations. Concurrent calls wait for each other.
    pub async fn migrate(&self) -> Result<(), DatabaseError> {
        self.require_utf8().await?;
        // sqlx takes a session lock and keeps it after an error. This session is always closed.
        let pool = connect_lazy(self.pool.connect_options().as_ref().clone(), 1, MIGRATION);
        let migrated = migrations().run(&pool).await;
        pool.close().await;
        migrated.map_err(|error| match error {
            MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => {
                DatabaseError::at(Operation::Migrate)(cause)
            }
            other => DatabaseError::Migrate(other),
        })
    }

    /// Whether all migrations of this version are applied. Fails if the encoding of the database is not UTF8.
    pub async fn is_migrated(&self) -> Result<bool, DatabaseError> {
        self.require_utf8().await?;
        let applied = self.applied_migrations().await?;
        Ok(migrations().iter().all(|migration| applied.contains(&migration.version)))
    }

    pub(crate) async fn applied_migrations(&self) -> Result<Vec<i64>, DatabaseError> {
        self.with_connection(Operation::ReadSchema, async |connection| {
            let table: Option<String> =
                sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations')::text").fetch_one(&mut *connection).await?;
            if table.is_none() {
                return Ok(Vec::new());
            }
            sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success").fetch_all(connection).await
        })
        .await
    }

    /// Runs a short statement without a transaction.
    pub(crate) async fn with_connection<T>(
        &self,
        operation: Operation,
        statement: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, DatabaseError> {
        with_timeout(operation, async {
            let mut session = self.session(operation).await?;
            let result = statement(&mut session.connection).await.map_err(DatabaseError::at(operation))?;
            session.finish();
            Ok(result)
        })
        .await
    }

    /// A session for a short operation.
    pub(crate) async fn session(&self, operation: Operation) -> Result<Session, DatabaseError> {
        self.acquire(&self.pool, operation).await
    }

    /// A session for statements that look up single rows by unique indexes.
    pub(crate) async fn lookup_session(&self, operation: Operation) -> Result<Session, DatabaseError> {
        self.acquire(&self.lookup_pool, operation).await
    }

    /// A session for an operation that may take minutes.
    pub(crate) async fn long_session(&self, operation: Operation) -> Result<Session, DatabaseError> {
        self.acquire(&self.long_pool, operation).await
    }

    async fn acquire(&self, pool: &PgPool, operation: Operation) -> Result<Session, DatabaseError> {
        match pool.acquire().await {
            Ok(connection) => Ok(Session { connection, operation, finished: false }),
            Err(sqlx::Error::PoolTimedOut) => Err(self.connect_error(operation).await),
            Err(cause) => Err(DatabaseError::at(operation)(cause)),
        }
    }

    /// Determines why the pool timed out: it does not return the errors of its attempts.
    async fn connect_error(&self, operation: Operation) -> DatabaseError {
        // A thousand waiting requests must not open a thousand connections.
        let Ok(_permit) = self.diagnosis.try_acquire() else {
            return DatabaseError::at(operation)(sqlx::Error::PoolTimedOut);
        };
        let options = self.pool.connect_options();
        match tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options)).await {
            Ok(Err(cause)) => DatabaseError::at(operation)(cause),
            // All connections were busy, or Postgres has just become available.
            Ok(Ok(_)) => DatabaseError::at(operation)(sqlx::Error::PoolTimedOut),
            Err(_) => DatabaseError::TimedOut(operation),
        }
    }
}

fn connect_lazy(options: PgConnectOptions, max_connections: u32, settings: &'static SessionSettings) -> PgPool {
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(|connection, _| Box::pin(settings.apply(connection)))
        .connect_lazy_with(options)
}

/// Limits the time of a short operation. A connection whose peer has vanished returns no error by itself.
pub(crate) async fn with_timeout<T>(
    operation: Operation,
    call: impl Future<Output = Result<T, DatabaseError>>,
) -> Result<T, DatabaseError> {
    tokio::time::timeout(OPERATION_TIMEOUT, call).await.unwrap_or(Err(DatabaseError::TimedOut(operation)))
}

/// A connection for more than one statement. Only [`Session::finish`] returns it to the pool. Otherwise (an error, or a
/// dropped future) it is closed, and Postgres cancels its statement and rolls back: in sqlx 0.9.0, a connection that is
/// dropped while it begins a transaction remains inside the transaction for its next user.
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
