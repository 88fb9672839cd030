//! From rows to the types of the domain.

use std::{fmt, str::FromStr};

use couponry_domain::Discount;
use sqlx::{Row as _, postgres::PgRow};

use crate::{DatabaseError, Operation};

/// A row that does not read as what we write.
pub(crate) struct Unexpected(String);

impl Unexpected {
    pub(crate) fn new(what: impl fmt::Display) -> Self {
        Self(what.to_string())
    }

    pub(crate) fn during(self, operation: Operation) -> DatabaseError {
        DatabaseError::Corrupt { operation, what: self.0 }
    }
}

impl From<sqlx::Error> for Unexpected {
    fn from(error: sqlx::Error) -> Self {
        Self::new(error)
    }
}

/// A text column that is written by parsing's other side.
pub(crate) fn parsed<T>(row: &PgRow, column: &str) -> Result<T, Unexpected>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    row.try_get::<&str, _>(column)?.parse().map_err(|error| Unexpected::new(format!("{column}: {error}")))
}

/// A number that is never negative.
pub(crate) fn count(row: &PgRow, column: &str) -> Result<u64, Unexpected> {
    let number: i64 = row.try_get(column)?;
    u64::try_from(number).map_err(|_| Unexpected::new(format!("{column}: {number}")))
}

/// The columns `type` and `value`.
pub(crate) fn discount(row: &PgRow) -> Result<Discount, Unexpected> {
    let value: i64 = row.try_get("value")?;
    let value = u32::try_from(value).map_err(|_| Unexpected::new(format!("value: {value}")))?;
    Ok(Discount { kind: parsed(row, "type")?, value })
}
