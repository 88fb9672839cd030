//! Errors that end a reconciliation early. It is then retried.

use std::time::Duration;

use couponry_crds::status::reason;
use couponry_kafka::KafkaError;
use couponry_postgres::DatabaseError;
use couponry_redis::RedisStoreError;
use couponry_runtime::error_chain;

use crate::blocker::{Blocker, Issuing};

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Generating the coupons failed, which may have taken minutes.
    #[error(transparent)]
    Generation(DatabaseError),
    #[error(transparent)]
    RedisStore(#[from] RedisStoreError),
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The rows of the stock in Postgres are incomplete.
    #[error("cannot read the stock: coupon number {0} is missing in Postgres")]
    MissingCoupon(u64),
    #[error("cannot {operation}")]
    Kubernetes {
        /// For example `write the status`.
        operation: &'static str,
        source: Box<kube::Error>,
    },
    /// Another client changed or deleted the object since it was read.
    #[error("the event was changed or deleted by another client")]
    Conflict,
    #[error("cannot remove the data of the event: a store did not respond in time")]
    RemovalTimedOut,
    /// The event is removed from Redis, but not from Postgres.
    #[error(transparent)]
    RowsRemain(Box<Self>),
    /// A defect of the planner.
    #[error("the plan does not converge: the last step was {last_step}")]
    TooManySteps { last_step: &'static str },
}

impl ReconcileError {
    /// The statuses 409 and 404 are [`Self::Conflict`].
    pub(crate) fn kubernetes(operation: &'static str, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if matches!(status.code, 404 | 409) => Self::Conflict,
            other => Self::Kubernetes { operation, source: Box::new(other) },
        }
    }

    /// The longest delay before the next attempt.
    pub(crate) const fn max_retry_delay(&self) -> Duration {
        match self {
            // Each attempt writes the stock into the log of Postgres again.
            Self::Generation(_) => Duration::from_mins(1),
            // Issuing may be suspended until the operator has verified a restarted Redis.
            _ => Duration::from_secs(4),
        }
    }

    /// The blocker to report in the status. None: the status itself cannot be written at the moment.
    pub(crate) fn blocker(&self) -> Option<Blocker> {
        let reason = match self {
            Self::Database(error) | Self::Generation(error) => match error {
                DatabaseError::Corrupt { .. } | DatabaseError::InvalidCodeFormat(_) | DatabaseError::HasOpening(_) => {
                    reason::PRELOAD_FAILED
                }
                _ => reason::BACKEND_UNAVAILABLE,
            },
            Self::TooManySteps { .. } => reason::INTERNAL_ERROR,
            Self::RedisStore(error) => redis_reason(error),
            Self::MissingCoupon(_) => reason::DRIFT_FOUND,
            Self::RowsRemain(error) => return error.blocker(),
            Self::Kafka(_) | Self::RemovalTimedOut => reason::BACKEND_UNAVAILABLE,
            Self::Kubernetes { .. } | Self::Conflict => return None,
        };
        let advice = match reason {
            reason::BACKEND_UNAVAILABLE => "The operator retries; if this persists, check that server",
            reason::REDIS_REJECTS_COMMANDS => {
                "Issuers return 503. If its memory is full, raise maxmemory; otherwise correct what the error names"
            }
            reason::WRONG_KEY_TYPE => "Something else has written to the keys of the event; see the runbook",
            reason::INVALID_VALUE => "Something else has written to couponMeta of the event; see the runbook",
            reason::ORPHANED_KEYS => "When the consumers have no lag, delete the other keys; see the runbook",
            reason::DRIFT_FOUND => "Set issuance to Paused and compare the stores with `kubectl couponry audit`",
            _ => "The operator retries; if this persists, see its log",
        };
        let message = format!("The reconciliation failed: {}. {advice}.", error_chain(self));
        let mut blocker = Blocker::new(reason, message);
        if matches!(self, Self::RedisStore(_)) && reason == reason::BACKEND_UNAVAILABLE {
            blocker.issuing = Issuing::Unknown;
        }
        Some(blocker)
    }
}

/// An error code means that Redis is available.
fn redis_reason(error: &RedisStoreError) -> &'static str {
    match error.code() {
        Some("OOM" | "MISCONF" | "NOREPLICAS" | "READONLY" | "NOPERM") => reason::REDIS_REJECTS_COMMANDS,
        Some("WRONGTYPE") => reason::WRONG_KEY_TYPE,
        Some("ORPHANEDKEYS") => reason::ORPHANED_KEYS,
        _ if matches!(error, RedisStoreError::InvalidValue { .. }) => reason::INVALID_VALUE,
        _ => reason::BACKEND_UNAVAILABLE,
    }
}
