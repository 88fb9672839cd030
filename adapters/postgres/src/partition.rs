//! The table that holds the coupons of one event.

use couponry_domain::Uuid;
use sqlx::{AssertSqlSafe, PgConnection};

/// The partition of `coupon` for the event with this uid. Table names cannot be parameters; this one has nothing in it but
/// the hexadecimal digits of the uid.
#[derive(Clone, Copy)]
pub(crate) struct Partition(pub(crate) Uuid);

impl Partition {
    fn name(self) -> String {
        format!("coupon_{}", self.0.simple())
    }

    /// The statement that fills it. A table made in the same transaction can take its rows frozen, so that no vacuum has to
    /// go over them later.
    pub(crate) fn copy(self, freeze: bool) -> String {
        let options = if freeze { "WITH (FREEZE)" } else { "" };
        format!("COPY {} (ordinal, code, type, value) FROM STDIN {options}", self.name())
    }

    /// Makes it, without indexes and not yet a part of `coupon`.
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

    /// Builds its indexes and makes it a part of `coupon`. The check on its rows lets Postgres skip reading them again, so
    /// that `coupon` is held up for no longer than a moment.
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

    /// Drops it, if it is there. That needs `coupon` for itself for a moment: rather than make everyone queue up behind a
    /// long reader, it fails after some seconds, and can be tried again.
    pub(crate) async fn drop(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let drop =
            format!("SET LOCAL lock_timeout = '3s'; DROP TABLE IF EXISTS {}; SET LOCAL lock_timeout = 0", self.name());
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(connection).await?;
        Ok(())
    }
}
