//! Errors of Kafka operations.

use std::fmt;

use rdkafka::error::{KafkaError as RdKafkaError, RDKafkaErrorCode};

/// The operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Creating a producer, consumer or admin client from the settings.
    Configure,
    /// Fetching the metadata of the topic.
    FetchMetadata,
    /// Creating a topic.
    CreateTopic,
    /// Reading the configuration of a topic.
    DescribeTopic,
    /// Deleting a topic, or changing its partitions or configuration.
    AlterTopic,
    /// Producing a record.
    Produce,
    /// Flushing the producer.
    Flush,
    /// Consuming records.
    Consume,
    /// Committing offsets.
    Commit,
    /// Measuring the lag of a consumer group.
    MeasureLag,
    /// Producing a dead letter.
    DeadLetter,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configure => "cannot create a Kafka client",
            Self::FetchMetadata => "cannot reach Kafka",
            Self::CreateTopic => "cannot create a topic",
            Self::DescribeTopic => "cannot read the configuration of a topic",
            Self::AlterTopic => "cannot change a topic",
            Self::Produce => "cannot produce a record",
            Self::Flush => "cannot flush the producer",
            Self::Consume => "cannot consume records",
            Self::Commit => "cannot commit offsets",
            Self::MeasureLag => "cannot measure the lag of the consumer group",
            Self::DeadLetter => "cannot produce a dead letter",
        })
    }
}

/// An error of librdkafka. Its message contains its sources already, so it has none: a printed chain shows each cause
/// once.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ClientError(pub(crate) RdKafkaError);

/// Why a connection to a broker failed: the latest message that librdkafka logged about it.
#[derive(Debug, thiserror::Error)]
#[error("{reason}{}", advice(reason))]
pub struct ConnectionFailure {
    pub(crate) reason: String,
    #[source]
    pub(crate) cause: ClientError,
}

impl ConnectionFailure {
    /// Whether a broker accepted the connection and ended it again, as it does when TLS or the credentials are wrong.
    fn is_rejection(&self) -> bool {
        ["SASL", "SSL", "certificate", "Disconnected"].iter().any(|cause| self.reason.contains(cause))
    }
}

/// A failed Kafka operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KafkaError {
    /// Kafka or the connection to it failed. The outcome of a produced record is then unknown: it may have been
    /// written.
    #[error("{operation}")]
    Client {
        /// The operation that failed.
        operation: Operation,
        /// The error of librdkafka.
        #[source]
        cause: ClientError,
    },
    /// No broker is reachable, or none accepts the credentials.
    #[error("{}", Operation::FetchMetadata)]
    Unreachable(#[source] ConnectionFailure),
    /// The settings contradict each other.
    #[error(transparent)]
    Settings(#[from] couponry_settings::SettingsError),
    /// Kafka did not respond in time.
    #[error("{0}: timed out")]
    TimedOut(Operation),
    /// The brokers respond, but the topic does not exist (yet).
    #[error("the Kafka topic {0:?} does not exist")]
    TopicNotFound(String),
    /// The topic is not the one whose offsets were consumed.
    #[error("the Kafka topic {0:?} was deleted and created again, it is consumed from its beginning")]
    TopicRecreated(String),
    /// The client received nothing, although the partitions have messages.
    #[error("received no messages from the partitions {0:?} although they have unread ones; replaced the Kafka client")]
    Stalled(Vec<i32>),
    /// The replication factor is higher than the number of brokers.
    #[error(
        "cannot create the topic {topic:?}: the replication factor is {replication}, but Kafka has only {brokers} \
         broker(s); start more brokers, or lower --kafka-replication and --kafka-min-insync-replicas"
    )]
    TooFewBrokers {
        /// The missing topic.
        topic: String,
        /// The replication factor.
        replication: i32,
        /// The number of brokers.
        brokers: usize,
    },
    /// A topic was created, but some of its partitions have no leader yet.
    #[error("the topic {0:?} was created, but some of its partitions have no leader yet")]
    NotReady(String),
}

/// A hint for connection failures whose message does not show the cause.
fn advice(reason: &str) -> &'static str {
    // librdkafka puts the protocol before the broker, unless it is plaintext.
    let is_tls = reason.starts_with("ssl://") || reason.starts_with("sasl_ssl://");
    if reason.contains("Disconnected") && !is_tls {
        " (if this persists, the listener may require TLS or SASL: see --kafka-security-protocol)"
    } else {
        ""
    }
}

impl KafkaError {
    pub(crate) fn at(operation: Operation) -> impl FnOnce(RdKafkaError) -> Self {
        move |cause| Self::Client { operation, cause: ClientError(cause) }
    }

    /// Whether no broker can be reached. False if one rejects the client or does not know the topic: the settings are
    /// probably wrong.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable(failure) => !failure.is_rejection(),
            // No connection has failed yet.
            Self::Client { operation: Operation::FetchMetadata, cause: ClientError(cause) } => matches!(
                cause.rdkafka_error_code(),
                Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::OperationTimedOut)
            ),
            Self::TimedOut(_) => true,
            _ => false,
        }
    }

    /// Whether the client is no longer a member of its consumer group.
    pub(crate) fn has_lost_membership(&self) -> bool {
        let Self::Client { cause: ClientError(cause), .. } = self else { return false };
        matches!(
            cause.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::IllegalGeneration
                    | RDKafkaErrorCode::UnknownMemberId
                    | RDKafkaErrorCode::RebalanceInProgress
            )
        )
    }

    /// Whether the client has to be replaced: librdkafka rejects every further call.
    pub(crate) fn is_fatal(&self) -> bool {
        let Self::Client { cause: ClientError(cause), .. } = self else { return false };
        matches!(cause, RdKafkaError::MessageConsumptionFatal(_))
            || cause.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outage_is_distinguished_from_rejection() {
        let unreachable = |reason: &str| {
            let cause = ClientError(RdKafkaError::MetadataFetch(RDKafkaErrorCode::BrokerTransportFailure));
            KafkaError::Unreachable(ConnectionFailure { reason: reason.to_owned(), cause })
        };
        for reason in [
            "sasl_ssl://k:9092/bootstrap: Connect to ipv4#10.0.0.1:9092 failed: Connection refused",
            "k:9092/bootstrap: Failed to resolve 'k:9092': Name or service not known",
            "k:9092/bootstrap: Connection setup timed out in state CONNECT",
        ] {
            assert!(unreachable(reason).is_outage(), "{reason}");
        }
        for reason in [
            "sasl_ssl://k:9092/bootstrap: SASL authentication error: Authentication failed",
            "ssl://k:9092/bootstrap: SSL handshake failed: certificate verify failed",
            "k:9092/bootstrap: Disconnected while requesting ApiVersion",
        ] {
            assert!(!unreachable(reason).is_outage(), "{reason}");
        }
        assert!(!KafkaError::TopicNotFound("coupon-issued".into()).is_outage());
    }
}
