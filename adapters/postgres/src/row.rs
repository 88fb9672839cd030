//! Conversion of rows into domain types.

use std::{fmt, str::FromStr};

use couponry_domain::{Discount, Seed};
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

/// The seed in a column that may be NULL.
pub(crate) fn seed_if_set(row: &PgRow, column: &str) -> Result<Option<Seed>, InvalidRow> {
    let Some(seed) = row.try_get::<Option<Vec<u8>>, _>(column)? else { return Ok(None) };
    let seed: [u8; 32] = seed.try_into().map_err(|_| InvalidRow::new("the seed does not have 32 bytes"))?;
    Ok(Some(Seed::from(seed)))
}

/// Parses a text column.
pub(crate) fn parsed<T>(row: &PgRow, column: &str) -> Result<T, InvalidRow>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    parsed_if_set(row, column)?.ok_or_else(|| InvalidRow::new(format!("{column} is NULL")))
}

/// Parses a text column that may be NULL.
pub(crate) fn parsed_if_set<T>(row: &PgRow, column: &str) -> Result<Option<T>, InvalidRow>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    let text = row.try_get::<Option<&str>, _>(column)?;
    text.map(|text| text.parse().map_err(|error| InvalidRow::new(format!("{column}: {error}")))).transpose()
}

/// A number that is never negative.
pub(crate) fn count(row: &PgRow, column: &str) -> Result<u64, InvalidRow> {
    count_if_set(row, column)?.ok_or_else(|| InvalidRow::new(format!("{column} is NULL")))
}

/// A number that is never negative, in a column that may be NULL.
pub(crate) fn count_if_set(row: &PgRow, column: &str) -> Result<Option<u64>, InvalidRow> {
    let number: Option<i64> = row.try_get(column)?;
    let count = |number| u64::try_from(number).map_err(|_| InvalidRow::new(format!("{column}: {number}")));
    number.map(count).transpose()
}

/// The discount in the columns `type` and `value`.
pub(crate) fn discount(row: &PgRow) -> Result<Discount, InvalidRow> {
    let value: i64 = row.try_get("value")?;
    let value = u32::try_from(value).map_err(|_| InvalidRow::new(format!("value: {value}")))?;
    Ok(Discount { kind: parsed(row, "type")?, value })
}
