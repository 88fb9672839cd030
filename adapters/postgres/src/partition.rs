//! The partition of `coupon` that holds the coupons of one event.

use couponry_domain::Uuid;
use sqlx::{AssertSqlSafe, PgConnection};

/// The partition of the event with this uid. A table name cannot be a parameter; this one consists of `coupon_` and the
/// hexadecimal digits of the uid.
#[derive(Clone, Copy)]
pub(crate) struct Partition(pub(crate) Uuid);

impl Partition {
    fn name(self) -> String {
        format!("coupon_{}", self.0.simple())
    }

    /// The statement that fills it. Rows can be frozen if the table was created in the same transaction; then no vacuum
    /// has to process them later.
    pub(crate) fn copy(self, freeze: bool) -> String {
        let options = if freeze { "WITH (FREEZE)" } else { "" };
        format!("COPY {} (ordinal, code, type, value) FROM STDIN {options}", self.name())
    }

    /// Creates it detached and without indexes.
    pub(crate) async fn create(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let (name, uid) = (self.name(), self.0);
        let create = format!(
            "CREATE TABLE {name} (LIKE coupon);
             ALTER TABLE {name} ALTER COLUMN event_uid SET DEFAULT '{uid}';
             ALTER TABLE {name} ADD CONSTRAINT one_event CHECK (event_uid = '{uid}')"
        );
        sqlx::raw_sql(AssertSqlSafe(create)).execute(connection).await?;
        Ok(())
    }

    /// Builds its indexes and attaches it to `coupon`. Because of the constraint Postgres does not scan the rows, so
    /// `coupon` is locked only for a moment.
    pub(crate) async fn attach(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let (name, uid) = (self.name(), self.0);
        let attach = format!(
            "ALTER TABLE {name} ADD PRIMARY KEY (event_uid, ordinal);
             ALTER TABLE {name} ADD UNIQUE (event_uid, code);
             ANALYZE {name};
             ALTER TABLE coupon ATTACH PARTITION {name} FOR VALUES IN ('{uid}');
             ALTER TABLE {name} DROP CONSTRAINT one_event"
        );
        sqlx::raw_sql(AssertSqlSafe(attach)).execute(connection).await?;
        Ok(())
    }

    /// Drops it if it exists. This takes an exclusive lock on `coupon`, and every other statement would queue behind it
    /// while it waits for a long reader. So it fails after a few seconds and can be retried.
    pub(crate) async fn drop(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let drop =
            format!("SET LOCAL lock_timeout = '3s'; DROP TABLE IF EXISTS {}; SET LOCAL lock_timeout = 0", self.name());
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(connection).await?;
        Ok(())
    }
}
