//! The log of a librdkafka client.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError as RdKafkaError, RDKafkaErrorCode},
};

use crate::error::{ClientError, ConnectionFailure, KafkaError, Operation};

/// Forwards the log of librdkafka to `tracing`, and keeps the latest message about a failed connection: the error of a
/// call reports only that no broker is reachable.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientLog {
    latest_failure: Arc<Mutex<Option<String>>>,
}

impl ClientLog {
    /// The error of a call that no broker responded to, with the latest connection failure.
    pub(crate) fn unreachable(&self, cause: RdKafkaError) -> KafkaError {
        match self.latest_failure().clone() {
            Some(reason) => KafkaError::Unreachable(ConnectionFailure { reason, cause: ClientError(cause) }),
            None => KafkaError::at(Operation::FetchMetadata)(cause),
        }
    }

    /// Discards the latest connection failure, because a broker has responded.
    pub(crate) fn clear(&self) {
        *self.latest_failure() = None;
    }

    fn latest_failure(&self) -> MutexGuard<'_, Option<String>> {
        self.latest_failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConsumerContext for ClientLog {}

impl ClientContext for ClientLog {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "FAIL" {
            let mut latest = self.latest_failure();
            // A closed connection explains less than the failure before it.
            if latest.is_none() || !message.contains(": Disconnected") {
                *latest = Some(without_decoration(message).to_owned());
            }
        }
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(facility, "{message}");
            }
            // librdkafka logs an error at every attempt to reach a broker. The caller of a failed operation reports it
            // at the level that it deserves.
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::info!(facility, "{message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(facility, "{message}");
            }
        }
    }

    fn error(&self, error: RdKafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            tracing::error!(%error, reason, "Kafka client failed fatally");
        } else {
            tracing::debug!(%error, reason, "Kafka client error");
        }
    }
}

/// The message without the thread name of librdkafka before it and the repeat count after it.
fn without_decoration(message: &str) -> &str {
    let message = message.split_once("]: ").filter(|_| message.starts_with("[thrd:")).map_or(message, |(_, rest)| rest);
    message.rsplit_once(" (after ").map_or(message, |(message, _)| message)
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn unreachable_error_contains_latest_connection_failure() {
        let log = ClientLog::default();
        let cause = RdKafkaError::MetadataFetch(RDKafkaErrorCode::BrokerTransportFailure);
        assert!(matches!(log.unreachable(cause.clone()), KafkaError::Client { .. }));
        let message = "[thrd:sasl_ssl://k:1/bootstrap]: sasl_ssl://k:1/bootstrap: SASL authentication error: no \
                       (after 3ms in state AUTH_REQ)";
        log.log(RDKafkaLogLevel::Error, "FAIL", message);
        log.log(
            RDKafkaLogLevel::Error,
            "FAIL",
            "sasl_ssl://k:1/bootstrap: Disconnected: SSL connection closed by peer",
        );
        let error = log.unreachable(cause.clone());
        let reason = error.source().unwrap().to_string();
        assert_eq!(reason, "sasl_ssl://k:1/bootstrap: SASL authentication error: no");
        log.clear();
        assert!(matches!(log.unreachable(cause), KafkaError::Client { .. }));
    }
}
