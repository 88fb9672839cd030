//! Errors of database operations.

use std::fmt;

use couponry_domain::Uuid;

/// The operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`Database::ping`](crate::Database::ping).
    Ping,
    /// Reading the settings of the server.
    ReadSettings,
    /// Reading the applied migrations.
    ReadSchema,
    /// [`Database::migrate`](crate::Database::migrate).
    Migrate,
    /// Reading or claiming the installation.
    ReadInstallation,
    /// [`Database::take_over_installation`](crate::Database::take_over_installation).
    TakeOver,
    /// [`Database::register`](crate::Database::register).
    Register,
    /// [`Database::event`](crate::Database::event).
    ReadEvent,
    /// [`Database::generate_coupons`](crate::Database::generate_coupons).
    GenerateCoupons,
    /// Importing codes: [`CodeImport`](crate::CodeImport).
    ImportCodes,
    /// [`Database::discard_stock`](crate::Database::discard_stock).
    DiscardStock,
    /// [`Database::schedule_opening`](crate::Database::schedule_opening).
    ScheduleOpening,
    /// [`Database::withdraw_opening`](crate::Database::withdraw_opening).
    WithdrawOpening,
    /// [`Database::set_record_cutoff`](crate::Database::set_record_cutoff).
    SetRecordCutoff,
    /// [`Database::coupons`](crate::Database::coupons).
    ReadCoupons,
    /// [`Database::record`](crate::Database::record).
    Record,
    /// [`Database::use_coupon`](crate::Database::use_coupon), or looking up a coupon.
    UseCoupon,
    /// [`Database::send_uses`](crate::Database::send_uses).
    SendUses,
    /// [`Database::unsent_uses`](crate::Database::unsent_uses).
    CountUnsentUses,
    /// [`Database::erase_user`](crate::Database::erase_user).
    EraseUser,
    /// Reading or counting issuances.
    ReadIssuances,
    /// [`Database::delete_event`](crate::Database::delete_event).
    DeleteEvent,
    /// [`Database::mark_resource_deleted`](crate::Database::mark_resource_deleted).
    MarkDeletion,
    /// [`Database::purging_events`](crate::Database::purging_events).
    ListDeletions,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ping => "cannot reach Postgres",
            Self::ReadSettings => "cannot read the settings of Postgres",
            Self::ReadSchema => "cannot read the schema version from Postgres",
            Self::Migrate => "cannot migrate the database",
            Self::ReadInstallation => "cannot read the installation from Postgres",
            Self::TakeOver => "cannot take over the installation in Postgres",
            Self::Register => "cannot register the event in Postgres",
            Self::ReadEvent => "cannot read the event from Postgres",
            Self::GenerateCoupons => "cannot generate the coupons in Postgres",
            Self::ImportCodes => "cannot import the codes into Postgres",
            Self::DiscardStock => "cannot discard the stock in Postgres",
            Self::ScheduleOpening => "cannot schedule the opening in Postgres",
            Self::WithdrawOpening => "cannot withdraw the opening in Postgres",
            Self::SetRecordCutoff => "cannot set the record cutoff in Postgres",
            Self::ReadCoupons => "cannot read the coupons from Postgres",
            Self::Record => "cannot record issuances in Postgres",
            Self::UseCoupon => "cannot read or change the coupon in Postgres",
            Self::SendUses => "cannot read or delete the unsent uses of coupons in Postgres",
            Self::CountUnsentUses => "cannot count the unsent uses of coupons in Postgres",
            Self::EraseUser => "cannot erase the user in Postgres",
            Self::ReadIssuances => "cannot read the issuances from Postgres",
            Self::DeleteEvent => "cannot delete the event from Postgres",
            Self::MarkDeletion => "cannot mark the event as deleted in Postgres",
            Self::ListDeletions => "cannot list the pending deletions in Postgres",
        })
    }
}

/// An error of the driver. Its message contains its sources already, so it has none: a printed chain shows each cause
/// once.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DriverError(pub(crate) sqlx::Error);

/// A failed database operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// The URL is not a valid Postgres URL. The message does not contain it, because it may have a password.
    #[error("the Postgres URL is not valid")]
    Url(#[source] DriverError),
    /// Postgres or the connection to it failed.
    #[error("{operation}")]
    Postgres {
        /// The operation that failed.
        operation: Operation,
        /// The error of Postgres or of the driver.
        #[source]
        cause: DriverError,
    },
    /// Postgres did not respond in time. The outcome of the operation is unknown.
    #[error("{0}: timed out")]
    TimedOut(Operation),
    /// Postgres does not accept writes.
    #[error("Postgres is read-only: it is a standby, or default_transaction_read_only is on")]
    ReadOnly,
    /// Each attempt conflicted with changes by other transactions.
    #[error("{0}: conflicts with concurrent changes in every attempt")]
    Conflict(Operation),
    /// The migrations of this version conflict with those of the database.
    #[error("{}", Operation::Migrate)]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// The text of the database has another encoding than UTF8, so it cannot store every user.
    #[error(
        "the database has the encoding {0}, but UTF8 is required: create it again with \
         CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
    )]
    Encoding(String),
    /// Coupons of the event were generated, but their table does not exist.
    #[error("{operation}: the table coupon_{} of the event does not exist", uid.simple())]
    StockMissing {
        /// The operation that failed.
        operation: Operation,
        /// The event.
        uid: Uuid,
    },
    /// The event is not registered.
    #[error("{operation}: the event {uid} is not registered")]
    UnknownEvent {
        /// The operation that failed.
        operation: Operation,
        /// The unknown event.
        uid: Uuid,
    },
    /// The batch does not continue the stock: another operator has generated coupons in the meantime.
    #[error("cannot add coupons in Postgres: expected {expected} existing coupons, found {found}")]
    StockChanged {
        /// The first ordinal of the batch.
        expected: u64,
        /// How many coupons the event has.
        found: u64,
    },
    /// The manifest has changed, the stock was discarded or the event was deleted after the caller read the event.
    #[error("the event {0} was changed, discarded or deleted since it was read")]
    EventChanged(Uuid),
    /// The stock of an event with an opening cannot be discarded.
    #[error("the event {0} has an opening: its stock cannot be discarded")]
    HasOpening(Uuid),
    /// Codes of this format could not be parsed.
    #[error("the code {0:?} has characters other than A-Z, 0-9 and -")]
    InvalidCodeFormat(String),
    /// A row has values that no version of Couponry writes.
    #[error("{operation}: invalid data: {detail}")]
    Corrupt {
        /// The operation that failed.
        operation: Operation,
        /// The invalid value.
        detail: String,
    },
}

impl DatabaseError {
    pub(crate) fn at(operation: Operation) -> impl Fn(sqlx::Error) -> Self + Copy {
        move |cause| Self::Postgres { operation, cause: DriverError(cause) }
    }

    fn sqlstate(&self) -> Option<String> {
        let Self::Postgres { cause, .. } = self else { return None };
        Some(cause.0.as_database_error()?.code()?.into_owned())
    }

    /// Whether a retry may succeed without any other change: Postgres is unreachable, starting, full or busy.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        let Self::Postgres { cause, .. } = self else { return matches!(self, Self::TimedOut(_) | Self::Conflict(_)) };
        match self.sqlstate() {
            // 08 connection, 25006 read-only (failover), 40 rolled back (deadlock), 53 insufficient resources, 55P03
            // lock not available, 57 operator intervention (shutdown, startup), 58 system error.
            Some(code) => {
                ["08", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class))
                    || ["25006", "55P03"].contains(&code.as_str())
            }
            None => matches!(
                cause.0,
                sqlx::Error::Io(_)
                    | sqlx::Error::Tls(_)
                    | sqlx::Error::Protocol(_)
                    | sqlx::Error::PoolTimedOut
                    | sqlx::Error::WorkerCrashed
                    | sqlx::Error::BeginFailed
            ),
        }
    }

    /// Whether Postgres rejects the data itself, so that the operation may succeed with other data.
    #[must_use]
    pub fn is_invalid_data(&self) -> bool {
        // 22 data exception, 23 integrity constraint violation, 54 program limit exceeded.
        let is_rejected = |code: String| {
            ["22", "23", "54"].iter().any(|class| code.starts_with(class)) && !is_about_the_server(&code)
        };
        self.sqlstate().is_some_and(is_rejected)
    }

    /// Whether a table of the statement does not exist.
    pub(crate) fn is_undefined_table(&self) -> bool {
        self.sqlstate().is_some_and(|code| code == "42P01")
    }

    /// Whether a statement has waited for a lock for longer than the `lock_timeout`.
    pub(crate) fn is_lock_timeout(&self) -> bool {
        self.sqlstate().is_some_and(|code| code == "55P03")
    }

    /// Whether a unique constraint was violated.
    pub(crate) fn is_unique_violation(&self) -> bool {
        self.sqlstate().is_some_and(|code| code == "23505")
    }

    /// Whether the transaction conflicted with another one and should be retried.
    pub(crate) fn is_conflict(&self) -> bool {
        // Serialization failure, deadlock; or a foreign key violation because the event was just deleted: the retry
        // finds out.
        self.sqlstate().is_some_and(|code| ["40001", "40P01", "23503"].contains(&code.as_str()))
    }
}

/// Whether an error whose class is that of invalid data is caused by the state or the settings of the server.
///
/// Records are valid UTF-8 without control characters, so 22021 (byte sequence not valid in the encoding) and 22P05 (no
/// equivalent in the encoding) mean that the encoding of the database or of the session is not UTF8. 22P03 (binary
/// representation) is about the protocol, 23503 about an event that was just deleted, 23505 is not possible with `ON
/// CONFLICT` and an intact index, 54001 and 54023 are limits that an administrator sets.
fn is_about_the_server(code: &str) -> bool {
    ["22021", "22P05", "22P03", "23503", "23505", "54001", "54023"].contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_about_the_server_are_not_about_data() {
        for code in ["22P05", "22021", "23503"] {
            assert!(is_about_the_server(code), "{code}");
        }
        for code in ["22001", "22003", "23514", "54000"] {
            assert!(!is_about_the_server(code), "{code}");
        }
    }
}
