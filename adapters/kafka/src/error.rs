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

    /// Whether the client has to be replaced: librdkafka rejects every further call.
    pub(crate) fn is_fatal(&self) -> bool {
        let Self::Client { cause: ClientError(cause), .. } = self else { return false };
        matches!(cause, RdKafkaError::MessageConsumptionFatal(_))
            || cause.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal)
    }
}
