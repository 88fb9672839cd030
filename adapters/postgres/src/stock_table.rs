//! The table with the coupons of one event.

use std::fmt;

use couponry_domain::Uuid;
use sqlx::{AssertSqlSafe, PgConnection};

/// The stock of the event with this uid: the table `coupon_` followed by the hexadecimal digits of the uid. Only the
/// digits vary, so statements with the name are safe.
///
/// Every statement names the table. There is no partitioned parent ([ADR
/// 0021](../../../docs/adr/0021-stock-tables.md)).
#[derive(Clone, Copy)]
pub(crate) struct StockTable(pub(crate) Uuid);

impl fmt::Display for StockTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "coupon_{}", self.0.simple())
    }
}

impl StockTable {
    /// The statement that fills it. Rows can be frozen if the table was created in the same transaction; then no vacuum
    /// has to process them later.
    pub(crate) fn copy(self, freeze: bool) -> String {
        let options = if freeze { "WITH (FREEZE)" } else { "" };
        format!("COPY {self} (ordinal, code, type, value) FROM STDIN {options}")
    }

    /// Creates it without indexes: inserting a million rows into an indexed table takes several times as long.
    pub(crate) async fn create(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let create = format!(
            "CREATE TABLE {self} (
                 ordinal bigint NOT NULL,
                 code text COLLATE \"C\" NOT NULL,
                 type text COLLATE \"C\" NOT NULL,
                 value bigint NOT NULL
             );
             CREATE TRIGGER never_updated BEFORE UPDATE ON {self} FOR EACH ROW EXECUTE FUNCTION reject_update()"
        );
        sqlx::raw_sql(AssertSqlSafe(create)).execute(connection).await?;
        Ok(())
    }

    /// Builds its indexes.
    pub(crate) async fn index(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let index = format!(
            "ALTER TABLE {self} ADD PRIMARY KEY (ordinal);
             ALTER TABLE {self} ADD UNIQUE (code);
             ANALYZE {self}"
        );
        sqlx::raw_sql(AssertSqlSafe(index)).execute(connection).await?;
        Ok(())
    }

    /// Drops it if it exists. Waits for readers of this table for as long as the session's `lock_timeout` allows;
    /// nothing of other events is locked.
    pub(crate) async fn drop(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(format!("DROP TABLE IF EXISTS {self}"))).execute(connection).await?;
        Ok(())
    }
}
