//! How the clients of librdkafka behave, and how they log in.

use std::{
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use couponry_settings::KafkaSettings;
use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    metadata::Metadata,
};

use crate::{JournalError, error::Operation};

/// How long a record waits for others that go the same way.
pub(crate) const LINGER: Duration = Duration::from_millis(5);

/// What all clients have in common.
pub(crate) fn client(settings: &KafkaSettings) -> Result<ClientConfig, JournalError> {
    settings.check()?;
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("client.id", "couponry")
        // A topic that a broker makes by itself has the broker's partitions and replication, not ours.
        .set("allow.auto.create.topics", "false")
        // A broker that comes back should not wait for us longer than a person would.
        .set("reconnect.backoff.max.ms", "2000")
        .set("security.protocol", settings.protocol.as_str())
        // Without it, a connection that the other end closes at once is not told of.
        .set_log_level(RDKafkaLogLevel::Info);
    if settings.protocol.is_tls() {
        config.set("ssl.endpoint.identification.algorithm", "https");
        config.set("ssl.ca.pem", settings.authorities.as_ref().map_or(&**PUBLIC_AUTHORITIES, |given| given.pem()));
        if let (Some(certificate), Some(key)) = (&settings.client_certificate, &settings.client_key) {
            config.set("ssl.certificate.location", certificate.display().to_string());
            config.set("ssl.key.location", key.display().to_string());
        }
    }
    if settings.protocol.has_login()
        && let (Some(mechanism), Some(username), Some(password)) =
            (settings.mechanism, &settings.username, &settings.password)
    {
        config
            .set("sasl.mechanisms", mechanism.as_str())
            .set("sasl.username", username.reveal())
            .set("sasl.password", password.reveal());
    }
    Ok(config)
}

/// What both producers have in common.
pub(crate) fn producer(settings: &KafkaSettings) -> Result<ClientConfig, JournalError> {
    let mut config = client(settings)?;
    config
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", LINGER.as_millis().to_string())
        // After that the outcome is reported as unknown; the outbox sends the record again.
        .set("message.timeout.ms", "30000");
    Ok(config)
}

/// Mozilla's list, as PEM. The OpenSSL in librdkafka would look for files of the machine, and an image has none.
static PUBLIC_AUTHORITIES: LazyLock<String> = LazyLock::new(|| {
    let mut pem = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(certificate);
        for line in text.as_bytes().chunks(64) {
            pem.extend(line.iter().copied().map(char::from));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
});

/// Hands the messages of librdkafka to `tracing`, and keeps the latest of a connection that failed: what librdkafka answers to
/// a call then is only that no broker can be reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logs(Arc<Mutex<Option<String>>>);

impl Logs {
    /// The error of a call that brokers should have answered, with what is known of the way to them.
    pub(crate) fn unreachable(&self, cause: KafkaError) -> JournalError {
        match self.latest().clone() {
            Some(reason) => JournalError::Unreachable { cause, reason },
            None => JournalError::at(Operation::Reach)(cause),
        }
    }

    /// A broker has answered.
    pub(crate) fn forget(&self) {
        *self.latest() = None;
    }

    fn latest(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConsumerContext for Logs {}

impl ClientContext for Logs {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "FAIL" {
            let mut latest = self.latest();
            // That a connection was closed explains less than why the one before it failed.
            if latest.is_none() || !message.contains(": Disconnected") {
                *latest = Some(readable(message).to_owned());
            }
        }
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

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            tracing::error!(%error, reason, "Kafka client failed");
        } else {
            tracing::debug!(%error, reason, "Kafka client");
        }
    }
}

/// What the brokers tell of a topic, asked by a consumer that nobody polls.
pub(crate) fn metadata(consumer: &BaseConsumer<Logs>, topic: &str, timeout: Duration) -> Result<Metadata, KafkaError> {
    // What librdkafka tells of its connections waits to be polled.
    consumer.fetch_metadata(Some(topic), timeout).inspect_err(|_| while consumer.poll(Duration::ZERO).is_some() {})
}

/// A message without the name of librdkafka's thread, and without how often it came before.
fn readable(message: &str) -> &str {
    let message = message.split_once("]: ").filter(|_| message.starts_with("[thrd:")).map_or(message, |(_, rest)| rest);
    message.rsplit_once(" (after ").map_or(message, |(message, _)| message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_failure_is_told_in_plain_words() {
        let logs = Logs::default();
        let cause = KafkaError::MetadataFetch(RDKafkaErrorCode::BrokerTransportFailure);
        assert!(matches!(logs.unreachable(cause.clone()), JournalError::Kafka { .. }));
        let message = "[thrd:sasl_ssl://k:1/bootstrap]: sasl_ssl://k:1/bootstrap: SASL authentication error: no (after 3ms in state AUTH_REQ)";
        logs.log(RDKafkaLogLevel::Error, "FAIL", message);
        logs.log(
            RDKafkaLogLevel::Error,
            "FAIL",
            "sasl_ssl://k:1/bootstrap: Disconnected: SSL connection closed by peer",
        );
        let error = logs.unreachable(cause.clone()).to_string();
        assert!(error.ends_with(": sasl_ssl://k:1/bootstrap: SASL authentication error: no"), "{error}");
        logs.forget();
        assert!(matches!(logs.unreachable(cause), JournalError::Kafka { .. }));
    }

    #[test]
    fn the_public_authorities_are_pem() {
        assert!(PUBLIC_AUTHORITIES.matches("-----BEGIN CERTIFICATE-----\nMII").count() > 50);
        assert!(PUBLIC_AUTHORITIES.lines().all(|line| line.len() <= 64));
    }
}
