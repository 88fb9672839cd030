//! What can go wrong with Kafka.

use std::fmt;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// What was being done when Kafka failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Making a producer, consumer or admin client out of the settings.
    Configure,
    /// Asking the brokers for the topic.
    Reach,
    /// Making a topic.
    CreateTopic,
    /// Reading the settings of a topic.
    DescribeTopic,
    /// Writing a record.
    Produce,
    /// Waiting until everything is written.
    Flush,
    /// Reading records.
    Receive,
    /// Committing offsets.
    Commit,
    /// Measuring how far a group is behind.
    MeasureLag,
    /// Writing a dead letter.
    DeadLetter,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configure => "making a Kafka client",
            Self::Reach => "reaching Kafka",
            Self::CreateTopic => "making a topic",
            Self::DescribeTopic => "reading the settings of a topic",
            Self::Produce => "writing a record",
            Self::Flush => "waiting for the records to be written",
            Self::Receive => "reading records",
            Self::Commit => "committing offsets",
            Self::MeasureLag => "measuring the lag",
            Self::DeadLetter => "writing a dead letter",
        })
    }
}

/// What can go wrong with Kafka.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Kafka, or the way to it, failed. For a record that was to be written, the outcome is unknown: it may be there.
    #[error("{operation}: {cause}")]
    Kafka {
        /// What was being done.
        operation: Operation,
        /// What librdkafka says.
        cause: KafkaError,
    },
    /// No broker can be reached, or none lets us in.
    #[error("{}: {cause}: {reason}{}", Operation::Reach, advice(reason))]
    Unreachable {
        /// What librdkafka says.
        cause: KafkaError,
        /// How the latest connection failed.
        reason: String,
    },
    /// The settings do not fit together.
    #[error(transparent)]
    Settings(#[from] couponry_settings::SettingsError),
    /// Kafka did not answer in time.
    #[error("{0}: no answer in time")]
    TimedOut(Operation),
    /// The brokers answer, but there is no such topic (yet).
    #[error("reaching Kafka: there is no topic {0:?}")]
    NoTopic(String),
    /// There are fewer brokers than each record is to be on.
    #[error(
        "making a topic: {topic:?} is to be on {replication} brokers, but Kafka has {brokers}: start more brokers, or \
         lower --kafka-replication (and --kafka-min-insync-replicas, which cannot be more)"
    )]
    TooFewBrokers {
        /// The topic that is missing.
        topic: String,
        /// On how many brokers it was to be.
        replication: i32,
        /// How many there are.
        brokers: usize,
    },
    /// A topic was made, but the brokers do not all show it yet.
    #[error("making a topic: {0:?} was made, but not all its partitions have a leader yet")]
    NotReady(String),
}

/// What to do about a connection that failed in a way that does not say it.
fn advice(reason: &str) -> &'static str {
    // librdkafka puts the protocol before the broker, unless it is plaintext.
    let is_tls = reason.starts_with("ssl://") || reason.starts_with("sasl_ssl://");
    if reason.contains("Disconnected") && !is_tls {
        " (if this lasts: does the listener want TLS or a login? --kafka-security-protocol)"
    } else {
        ""
    }
}

impl JournalError {
    pub(crate) fn at(operation: Operation) -> impl FnOnce(KafkaError) -> Self {
        move |cause| Self::Kafka { operation, cause }
    }

    pub(crate) fn is_fatal(&self) -> bool {
        match self {
            Self::Kafka { cause: KafkaError::MessageConsumptionFatal(_), .. } => true,
            Self::Kafka { cause, .. } => cause.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal),
            _ => false,
        }
    }
}
