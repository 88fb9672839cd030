//! Errors of an audit.

use couponry_domain::{EventName, Uuid};
use couponry_kafka::KafkaError;
use couponry_postgres::DatabaseError;
use couponry_redis::RedisStoreError;

/// Why an audit has no report.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Postgres failed.
    #[error(transparent)]
    Postgres(#[from] DatabaseError),
    /// Redis failed.
    #[error(transparent)]
    Redis(#[from] RedisStoreError),
    /// Kafka failed.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The event is not registered in Postgres.
    #[error("Postgres has no event {name} with the uid {uid}{}", listed(others))]
    UnknownEvent {
        /// Its name.
        name: EventName,
        /// Its uid.
        uid: Uuid,
        /// The events with this name that Postgres has.
        others: Vec<Uuid>,
    },
}

fn listed(uids: &[Uuid]) -> String {
    if uids.is_empty() {
        return String::new();
    }
    let uids: Vec<String> = uids.iter().map(Uuid::to_string).collect();
    format!("; other events with this name: {}", uids.join(", "))
}
