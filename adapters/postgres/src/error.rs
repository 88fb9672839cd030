//! What can go wrong with the database.

use std::fmt;

use couponry_domain::Uuid;

/// What was being done when Postgres failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`Database::ping`](crate::Database::ping).
    Ping,
    /// [`Database::migrate`](crate::Database::migrate).
    Migrate,
    /// [`Database::register`](crate::Database::register).
    Register,
    /// [`Database::event`](crate::Database::event).
    ReadEvent,
    /// [`Database::preload`](crate::Database::preload).
    Preload,
    /// [`Database::discard_stock`](crate::Database::discard_stock).
    DiscardStock,
    /// [`Database::schedule_opening`](crate::Database::schedule_opening).
    ScheduleOpening,
    /// [`Database::withdraw_opening`](crate::Database::withdraw_opening).
    WithdrawOpening,
    /// [`Database::set_record_cutoff`](crate::Database::set_record_cutoff).
    Seal,
    /// [`Database::coupons`](crate::Database::coupons).
    ReadCoupons,
    /// [`Database::record`](crate::Database::record).
    Record,
    /// Reading or counting issuances.
    ReadIssuances,
    /// [`Database::delete_event`](crate::Database::delete_event).
    DeleteEvent,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ping => "reaching Postgres",
            Self::Migrate => "migrating the tables",
            Self::Register => "registering the event",
            Self::ReadEvent => "reading the event",
            Self::Preload => "making the stock",
            Self::DiscardStock => "discarding the stock",
            Self::ScheduleOpening => "noting the opening",
            Self::WithdrawOpening => "taking back the opening",
            Self::Seal => "sealing what was recorded",
            Self::ReadCoupons => "reading the stock",
            Self::Record => "recording issuances",
            Self::ReadIssuances => "reading issuances",
            Self::DeleteEvent => "deleting the event",
        })
    }
}

/// What can go wrong with the database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// The URL is no Postgres URL. Its text stays out of the message: it may hold a password.
    #[error("the Postgres URL is not valid: {0}")]
    Url(sqlx::Error),
    /// Postgres, or the way to it, failed.
    #[error("{operation}: {cause}")]
    Postgres {
        /// What was being done.
        operation: Operation,
        /// What Postgres or the driver says.
        cause: sqlx::Error,
    },
    /// Postgres did not answer in time. What was asked for may have happened or not.
    #[error("{0}: Postgres does not answer")]
    TimedOut(Operation),
    /// The migrations and the database do not fit together.
    #[error("migrating the tables: {0}")]
    Migrate(sqlx::migrate::MigrateError),
    /// The event is not registered.
    #[error("{operation}: the event {uid} is not registered")]
    UnknownEvent {
        /// What was being done.
        operation: Operation,
        /// The event that was asked for.
        uid: Uuid,
    },
    /// The stock is not what the lot continues: someone else made it, or added to it, in the meantime.
    #[error("making the stock: expected {expected} coupons to be there, found {found}")]
    StockChanged {
        /// The lot's first ordinal.
        expected: u64,
        /// How many coupons the event has.
        found: u64,
    },
    /// The stock was made anew since the caller has seen the event, or the event is gone.
    #[error("the stock of the event {0} is not the one that was seen")]
    StockEpochChanged(Uuid),
    /// The stock of an event that was opened stays as it is.
    #[error("the event {0} was opened already: its stock stays as it is")]
    AlreadyOpened(Uuid),
    /// Codes of this format could not be read back.
    #[error("registering the event: a code like {0:?} is not made of capital letters, digits and dashes")]
    InvalidCodeFormat(String),
    /// A row holds what no version of Couponry writes.
    #[error("{operation}: unexpected data: {what}")]
    Corrupt {
        /// What was being done.
        operation: Operation,
        /// What is wrong with it.
        what: String,
    },
}

impl DatabaseError {
    pub(crate) fn at(operation: Operation) -> impl FnOnce(sqlx::Error) -> Self {
        move |cause| Self::Postgres { operation, cause }
    }

    fn sqlstate(&self) -> Option<String> {
        let Self::Postgres { cause, .. } = self else { return None };
        Some(cause.as_database_error()?.code()?.into_owned())
    }

    /// Whether the same call may succeed later without anyone changing anything: Postgres is away, starting, full or busy.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        let Self::Postgres { cause, .. } = self else { return matches!(self, Self::TimedOut(_)) };
        match self.sqlstate() {
            // 08 connection, 25006 read-only (a failover), 40 rolled back (deadlock), 53 resources, 55P03 lock not
            // available, 57 the server is stopping or starting, 58 its disk or system.
            Some(code) => {
                ["08", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class))
                    || ["25006", "55P03"].contains(&code.as_str())
            }
            None => matches!(
                cause,
                sqlx::Error::Io(_)
                    | sqlx::Error::Tls(_)
                    | sqlx::Error::Protocol(_)
                    | sqlx::Error::PoolTimedOut
                    | sqlx::Error::WorkerCrashed
                    | sqlx::Error::BeginFailed
            ),
        }
    }

    /// Whether Postgres refuses the data itself, so that other data may well get through where this cannot.
    #[must_use]
    pub fn is_about_data(&self) -> bool {
        // 22 data exception, 23 integrity constraint, 54 a limit exceeded.
        self.sqlstate().is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
    }

    /// Whether a row is there already.
    pub(crate) fn is_repetition(&self) -> bool {
        self.sqlstate().is_some_and(|code| code == "23505")
    }

    /// Whether a transaction that was in the way of others should simply be done again.
    pub(crate) fn is_conflict(&self) -> bool {
        // Serialization failure, deadlock; or the event was deleted just now, which the next attempt sees.
        self.sqlstate().is_some_and(|code| ["40001", "40P01", "23503"].contains(&code.as_str()))
    }
}
