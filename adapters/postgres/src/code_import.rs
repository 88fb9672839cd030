//! Importing the codes of an event, instead of generating them.
//!
//! The lines of the file are copied into a temporary table. [`CodeImport::commit`] checks them as a whole and moves
//! them into the stock. All of it is one transaction: an import that was interrupted leaves nothing, and can be
//! repeated. The event is locked only while the stock is changed, so a slow sender does not delay others.

use couponry_domain::{CouponBatch, Discount, Uuid, code::CouponCode, hex::hex};
use sqlx::{AssertSqlSafe, Row as _, postgres::PgRow};

use crate::{
    connection::{Database, Session},
    error::{DatabaseError, Operation},
    event::{self, StoredEvent},
    generate::{KEEPALIVE, add_to_counts, check_continues, write_copy_line},
    row::{self, InvalidRow},
    stock_table::StockTable,
};

const OPERATION: Operation = Operation::ImportCodes;

/// How many duplicates are returned.
const MAX_DUPLICATES: i64 = 20;

/// A line of a file with codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeLine {
    /// Its number, from 1.
    pub line: u64,
    /// Its code.
    pub code: CouponCode,
    /// Its discount.
    pub discount: Discount,
}

/// What is stored about a file with codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeFile {
    /// The hash of the file as it was received.
    pub sha256: [u8; 32],
    /// One of about 2^`guess_bits` guesses matches a code of the file.
    pub guess_bits: u8,
}

impl CodeFile {
    /// The hash as hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> String {
        hex(&self.sha256)
    }
}

/// An import that has succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportedCodes {
    /// The number of codes.
    pub count: u64,
    /// The file.
    pub file: CodeFile,
    /// When it was imported (milliseconds since the Unix epoch).
    pub imported_at: i64,
}

/// The result of [`CodeImport::commit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// The codes are in the stock.
    Imported,
    /// Nothing was imported: these lines (the first ones of them) repeat the code of an earlier line.
    Repeated {
        /// Pairs of a line and the earlier line.
        lines: Vec<(u64, u64)>,
    },
    /// Nothing was imported: the codes of these lines (the first ones of them) are in the stock already.
    InStock {
        /// The lines.
        lines: Vec<u64>,
    },
}

/// An import in progress. Dropping it discards the lines.
pub struct CodeImport {
    session: Session,
}

impl Database {
    /// Begins an import.
    pub async fn begin_code_import(&self) -> Result<CodeImport, DatabaseError> {
        let mut session = self.long_session(OPERATION).await?;
        let begin = format!(
            "BEGIN; {KEEPALIVE};
             CREATE TEMPORARY TABLE imported_code (
                 line bigint NOT NULL,
                 code text COLLATE \"C\" NOT NULL,
                 type text COLLATE \"C\" NOT NULL,
                 value bigint NOT NULL
             ) ON COMMIT DROP"
        );
        sqlx::raw_sql(AssertSqlSafe(begin))
            .execute(session.connection())
            .await
            .map_err(DatabaseError::at(OPERATION))?;
        Ok(CodeImport { session })
    }

    /// The imports of the event, in their order.
    pub async fn code_imports(&self, uid: Uuid) -> Result<Vec<ImportedCodes>, DatabaseError> {
        let rows = self
            .with_connection(Operation::ReadEvent, async |connection| {
                sqlx::query(
                    "SELECT count, sha256, guess_bits::bigint AS guess_bits,
                            (extract(epoch FROM imported_at) * 1000)::bigint AS imported_at
                     FROM code_import WHERE event_uid = $1 ORDER BY first_ordinal",
                )
                .bind(uid)
                .fetch_all(connection)
                .await
            })
            .await?;
        rows.iter()
            .map(imported_codes)
            .collect::<Result<_, _>>()
            .map_err(|invalid| invalid.in_operation(Operation::ReadEvent))
    }
}

impl CodeImport {
    /// Copies lines of the file into the temporary table.
    pub async fn stage(&mut self, lines: &[CodeLine]) -> Result<(), DatabaseError> {
        let at = DatabaseError::at(OPERATION);
        let mut chunk = String::with_capacity(lines.len() * 48);
        for CodeLine { line, code, discount } in lines {
            write_copy_line(&mut chunk, *line, code, *discount);
        }
        let copy = "COPY pg_temp.imported_code (line, code, type, value) FROM STDIN";
        let mut copy = self.session.connection().copy_in_raw(copy).await.map_err(at)?;
        copy.send(chunk.into_bytes()).await.map_err(at)?;
        copy.finish().await.map_err(at)?;
        Ok(())
    }

    /// Adds the codes to the stock, as the coupons of `batch`. Fails if the event has changed since `stored` was read.
    /// The lines must have as many codes of each discount as the batch.
    ///
    /// The order of the coupons depends on the seed of the event and on the codes, not on the order of the lines.
    ///
    /// Of concurrent calls the first one succeeds, and the others return [`DatabaseError::StockChanged`].
    pub async fn commit(
        mut self,
        stored: &StoredEvent,
        batch: &CouponBatch,
        file: &CodeFile,
    ) -> Result<ImportOutcome, DatabaseError> {
        let at = DatabaseError::at(OPERATION);
        let connection = self.session.connection();
        sqlx::raw_sql("ANALYZE pg_temp.imported_code").execute(&mut *connection).await.map_err(at)?;
        let repeated: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT max(line), min(line) FROM pg_temp.imported_code GROUP BY code HAVING count(*) > 1
             ORDER BY 1 LIMIT $1",
        )
        .bind(MAX_DUPLICATES)
        .persistent(false)
        .fetch_all(&mut *connection)
        .await
        .map_err(at)?;
        if !repeated.is_empty() {
            let lines = repeated.into_iter().map(|(line, earlier)| (line.cast_unsigned(), earlier.cast_unsigned()));
            return Ok(ImportOutcome::Repeated { lines: lines.collect() });
        }

        let event = event::lock(connection, stored.uid, OPERATION).await?;
        // A stock that is created now would remain after the deletion.
        let is_purging: bool = sqlx::query_scalar("SELECT is_purging FROM coupon_event WHERE uid = $1")
            .bind(stored.uid)
            .fetch_one(&mut *connection)
            .await
            .map_err(at)?;
        if is_purging {
            return Err(DatabaseError::EventChanged(stored.uid));
        }
        check_continues(&event, stored, batch)?;
        let stock = StockTable(stored.uid);
        let is_first = event.discount_counts.is_empty();
        if is_first {
            stock.create(connection).await.map_err(at)?;
        } else {
            let in_stock = format!(
                "SELECT line FROM pg_temp.imported_code JOIN {stock} USING (code) ORDER BY line LIMIT {MAX_DUPLICATES}"
            );
            let lines: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(in_stock))
                .persistent(false)
                .fetch_all(&mut *connection)
                .await
                .map_err(at)?;
            if !lines.is_empty() {
                return Ok(ImportOutcome::InStock { lines: lines.into_iter().map(i64::cast_unsigned).collect() });
            }
        }
        let insert = format!(
            "INSERT INTO {stock} (ordinal, code, type, value)
             SELECT $1 + row_number() OVER (ORDER BY sha256($2 || convert_to(code, 'UTF8'))) - 1, code, type, value
             FROM pg_temp.imported_code"
        );
        let inserted = sqlx::query(AssertSqlSafe(insert))
            .bind(batch.first_ordinal.cast_signed())
            .bind(event.seed.as_bytes().as_slice())
            .persistent(false)
            .execute(&mut *connection)
            .await
            .map_err(at)?;
        if inserted.rows_affected() != batch.len() {
            let detail = format!("{} of {} codes were inserted", inserted.rows_affected(), batch.len());
            return Err(DatabaseError::Corrupt { operation: OPERATION, detail });
        }
        if is_first {
            stock.index(connection).await.map_err(at)?;
        }
        add_to_counts(connection, &event, batch).await.map_err(at)?;
        sqlx::query(
            "INSERT INTO code_import (event_uid, first_ordinal, count, sha256, guess_bits) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(stored.uid)
        .bind(batch.first_ordinal.cast_signed())
        .bind(batch.len().cast_signed())
        .bind(file.sha256.as_slice())
        .bind(i16::from(file.guess_bits))
        .execute(&mut *connection)
        .await
        .map_err(at)?;
        couponry_failpoint::crash("database.before-import-commit");
        sqlx::raw_sql("COMMIT").execute(&mut *connection).await.map_err(at)?;
        self.session.finish();
        Ok(ImportOutcome::Imported)
    }
}

fn imported_codes(row: &PgRow) -> Result<ImportedCodes, InvalidRow> {
    let sha256: Vec<u8> = row.try_get("sha256")?;
    let sha256 = sha256.try_into().map_err(|_| InvalidRow::new("the hash of an import does not have 32 bytes"))?;
    let guess_bits = u8::try_from(row::count(row, "guess_bits")?).map_err(InvalidRow::new)?;
    Ok(ImportedCodes {
        count: row::count(row, "count")?,
        file: CodeFile { sha256, guess_bits },
        imported_at: row.try_get("imported_at")?,
    })
}
