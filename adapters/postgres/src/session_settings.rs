//! The settings that sessions rely on, whatever the role or the database has configured.

use sqlx::PgConnection;

/// Names and values of the settings of a session.
pub(crate) struct SessionSettings([(&'static str, &'static str); 9]);

/// For operations that usually take milliseconds.
pub(crate) static SHORT: &SessionSettings = &with_timeouts("25s", "5s", "60s");

/// For operations that may take minutes. They wait for a lock only briefly, because others queue behind the waiting
/// statement.
pub(crate) static LONG: &SessionSettings = &with_timeouts("0", "5s", "10min");

/// For migrations. They wait for each other.
pub(crate) static MIGRATION: &SessionSettings = &with_timeouts("0", "0", "10min");

const fn with_timeouts(statement: &'static str, lock: &'static str, idle: &'static str) -> SessionSettings {
    SessionSettings([
        ("statement_timeout", statement),
        ("lock_timeout", lock),
        ("idle_in_transaction_session_timeout", idle),
        // Since PostgreSQL 17.
        ("transaction_timeout", "0"),
        ("idle_session_timeout", "0"),
        // A statement sees what was committed before it began, for example while an earlier statement waited.
        ("default_transaction_isolation", "read committed"),
        ("default_transaction_deferrable", "off"),
        // The plan of a prepared statement would remain that for an almost empty `issuance`.
        ("plan_cache_mode", "force_custom_plan"),
        // Cancels the statement of a dropped future, whose connection is closed: it would keep its locks, and deadlock
        // with the retry.
        ("client_connection_check_interval", "1s"),
    ])
}

impl SessionSettings {
    /// Applies the settings that the server knows.
    pub(crate) async fn apply(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let (names, values): (Vec<&str>, Vec<&str>) = self.0.iter().copied().unzip();
        sqlx::query(
            "SELECT set_config(name, wanted.value, false)
             FROM unnest($1::text[], $2::text[]) AS wanted (name, value) JOIN pg_settings USING (name)",
        )
        .bind(names)
        .bind(values)
        .persistent(false)
        .execute(connection)
        .await?;
        Ok(())
    }
}
