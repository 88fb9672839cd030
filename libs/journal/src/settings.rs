//! Where Kafka is, and how its clients behave.

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
};

/// Where Kafka is, and which topic the records are on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaSettings {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// The topic of the issued records. Dead letters go to `<topic>.dlq`.
    pub topic: String,
}

impl KafkaSettings {
    /// The name of the dead-letter topic.
    #[must_use]
    pub fn dead_letter_topic(&self) -> String {
        format!("{}.dlq", self.topic)
    }

    /// What all clients have in common.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "couponry")
            // A topic that a broker makes by itself has the broker's partitions and replication, not ours.
            .set("allow.auto.create.topics", "false")
            // A broker that comes back should not wait for us longer than a person would.
            .set("reconnect.backoff.max.ms", "2000");
        config
    }

    /// What both producers have in common.
    pub(crate) fn producer(&self) -> ClientConfig {
        let mut config = self.client();
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("compression.type", "lz4")
            // After that the outcome is reported as unknown; the outbox sends the record again.
            .set("message.timeout.ms", "30000");
        config
    }
}

/// Hands the messages of librdkafka to `tracing`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Logs;

impl ClientContext for Logs {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        client_error(&error, reason);
    }
}

pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        // librdkafka calls it an error when a broker cannot be reached, and says so at every attempt. What that means for
        // the program is said where its calls fail.
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, "{message}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::info!(facility, "{message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::debug!(facility, "{message}");
        }
    }
}

pub(crate) fn client_error(error: &KafkaError, reason: &str) {
    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
        tracing::error!(%error, reason, "Kafka client failed");
    } else {
        tracing::debug!(%error, reason, "Kafka client");
    }
}
