//! The settings that sessions rely on, whatever the role or the database has configured.

use sqlx::PgConnection;

/// Names and values of the settings of a session.
pub(crate) struct SessionSettings([(&'static str, &'static str); 11]);

/// For operations that usually take milliseconds.
pub(crate) static SHORT: &SessionSettings = &settings("25s", "5s", "60s", PLANNED_ANEW);

/// For statements that look up single rows by unique indexes. Planning each of them anew costs more than executing it.
/// Their plans must use the indexes also if they were made while the tables were almost empty. A client waits for the
/// response.
pub(crate) static LOOKUP: &SessionSettings = &settings("5s", "2s", "60s", ("force_generic_plan", "off"));

/// For operations that may take minutes. They wait for a lock only briefly, because others queue behind the waiting
/// statement.
pub(crate) static LONG: &SessionSettings = &settings("0", "5s", "10min", PLANNED_ANEW);

/// For migrations. They wait for each other.
pub(crate) static MIGRATION: &SessionSettings = &settings("0", "0", "10min", PLANNED_ANEW);

/// The plan of a prepared statement would remain that for an almost empty `issuance`.
const PLANNED_ANEW: (&str, &str) = ("force_custom_plan", "on");

const fn settings(
    statement: &'static str,
    lock: &'static str,
    idle: &'static str,
    (plan_cache_mode, enable_seqscan): (&'static str, &'static str),
) -> SessionSettings {
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
        // A confirmed change survives a crash. A stricter value of the role or the database remains.
        ("synchronous_commit", "on"),
        ("plan_cache_mode", plan_cache_mode),
        ("enable_seqscan", enable_seqscan),
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
             FROM unnest($1::text[], $2::text[]) AS wanted (name, value) JOIN pg_settings USING (name)
             WHERE name <> 'synchronous_commit' OR setting IN ('off', 'local')",
        )
        .bind(names)
        .bind(values)
        .persistent(false)
        .execute(connection)
        .await?;
        Ok(())
    }
}
