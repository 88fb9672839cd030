//! The configuration of librdkafka clients.

use std::{sync::LazyLock, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use couponry_settings::{ExposeSecret as _, KafkaSettings};
use rdkafka::{ClientConfig, config::RDKafkaLogLevel};

use crate::error::KafkaError;

/// How long a record waits for others of the same partition.
pub(crate) const LINGER: Duration = Duration::from_millis(5);

/// The configuration that all consumers share.
pub(crate) fn consumer(settings: &KafkaSettings, group: &str) -> Result<ClientConfig, KafkaError> {
    let mut config = client(settings)?;
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        // Records are not written in transactions. An open transaction of another producer would hold them back.
        .set("isolation.level", "read_uncommitted");
    Ok(config)
}

/// The configuration that all clients share.
pub(crate) fn client(settings: &KafkaSettings) -> Result<ClientConfig, KafkaError> {
    settings.check()?;
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("client.id", "couponry")
        // A topic that a broker creates automatically has the broker's default partitions and replication.
        .set("allow.auto.create.topics", "false")
        // Reconnects soon after a broker has come back.
        .set("reconnect.backoff.max.ms", "2000")
        .set("security.protocol", settings.protocol.as_str())
        // Below this level, librdkafka does not log a connection that the peer closes immediately.
        .set_log_level(RDKafkaLogLevel::Info);
    if settings.protocol.is_tls() {
        config.set("ssl.endpoint.identification.algorithm", "https");
        config.set("ssl.ca.pem", settings.ca_certificates.as_ref().map_or(&**PUBLIC_CA_CERTIFICATES, |own| own.pem()));
        if let (Some(certificate), Some(key)) = (&settings.client_certificate, &settings.client_key) {
            config.set("ssl.certificate.location", certificate.display().to_string());
            config.set("ssl.key.location", key.display().to_string());
        }
    }
    if settings.protocol.is_sasl()
        && let (Some(mechanism), Some(username), Some(password)) =
            (settings.mechanism, &settings.username, &settings.password)
    {
        config
            .set("sasl.mechanisms", mechanism.as_str())
            .set("sasl.username", username.expose_secret())
            .set("sasl.password", password.expose_secret());
    }
    Ok(config)
}

/// The configuration of producers.
pub(crate) fn producer(settings: &KafkaSettings) -> Result<ClientConfig, KafkaError> {
    let mut config = client(settings)?;
    config
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", LINGER.as_millis().to_string())
        // After this time the outcome is reported as unknown, and the record is sent again from the outbox.
        .set("message.timeout.ms", "30000");
    Ok(config)
}

/// Mozilla's CA certificates as PEM. The OpenSSL of librdkafka would read them from the file system, where an image has
/// none.
static PUBLIC_CA_CERTIFICATES: LazyLock<String> = LazyLock::new(|| {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_ca_certificates_are_valid_pem() {
        assert!(PUBLIC_CA_CERTIFICATES.matches("-----BEGIN CERTIFICATE-----\nMII").count() > 50);
        assert!(PUBLIC_CA_CERTIFICATES.lines().all(|line| line.len() <= 64));
    }
}
