//! Conversion of rows into domain types.

use std::{fmt, str::FromStr};

use couponry_domain::Discount;
use sqlx::{Row as _, postgres::PgRow};

use crate::error::{DatabaseError, Operation};

/// A value that no version of Couponry writes.
pub(crate) struct InvalidRow(String);

impl InvalidRow {
    pub(crate) fn new(detail: impl fmt::Display) -> Self {
        Self(detail.to_string())
    }

    /// The error of the operation that has read the row.
    pub(crate) fn in_operation(self, operation: Operation) -> DatabaseError {
        DatabaseError::Corrupt { operation, detail: self.0 }
    }
}

impl From<sqlx::Error> for InvalidRow {
    fn from(error: sqlx::Error) -> Self {
        Self::new(error)
    }
}

/// Parses a text column.
pub(crate) fn parsed<T>(row: &PgRow, column: &str) -> Result<T, InvalidRow>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    row.try_get::<&str, _>(column)?.parse().map_err(|error| InvalidRow::new(format!("{column}: {error}")))
}

/// A number that is never negative.
pub(crate) fn count(row: &PgRow, column: &str) -> Result<u64, InvalidRow> {
    let number: i64 = row.try_get(column)?;
    u64::try_from(number).map_err(|_| InvalidRow::new(format!("{column}: {number}")))
}

/// The discount in the columns `type` and `value`.
pub(crate) fn discount(row: &PgRow) -> Result<Discount, InvalidRow> {
    let value: i64 = row.try_get("value")?;
    let value = u32::try_from(value).map_err(|_| InvalidRow::new(format!("value: {value}")))?;
    Ok(Discount { kind: parsed(row, "type")?, value })
}
