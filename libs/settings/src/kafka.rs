//! Connection settings of Kafka.

use std::path::PathBuf;

use secrecy::SecretString;

use crate::{
    ca_certificates::CaCertificates,
    error::{SettingsError, ensure},
    secret::parse_secret,
};

/// Connection settings of Kafka, with the topic of the issued records.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Kafka")]
pub struct KafkaSettings {
    /// Bootstrap servers of Kafka, separated by commas.
    #[arg(id = "kafka_brokers", long = "kafka-brokers", env = "KAFKA_BROKERS", value_name = "HOST:PORT,...")]
    pub brokers: String,
    /// Topic of the issued records. The dead-letter topic is `<TOPIC>.dlq`.
    #[arg(
        id = "kafka_topic",
        long = "kafka-topic",
        env = "KAFKA_TOPIC",
        default_value = "coupon-issued",
        value_name = "TOPIC"
    )]
    pub topic: String,
    /// Protocol of the brokers' listener.
    #[arg(
        id = "kafka_security_protocol",
        long = "kafka-security-protocol",
        env = "KAFKA_SECURITY_PROTOCOL",
        value_enum,
        default_value_t,
        ignore_case = true,
        value_name = "PROTOCOL"
    )]
    pub protocol: SecurityProtocol,
    /// PEM file with CA certificates to verify the brokers with. Default: the public CAs (Mozilla's list).
    #[arg(
        id = "kafka_ca_file",
        long = "kafka-ca-file",
        env = "KAFKA_CA_FILE",
        value_name = "PATH",
        value_parser = CaCertificates::read
    )]
    pub ca_certificates: Option<CaCertificates>,
    /// SASL mechanism, required by the protocols `sasl_...`.
    #[arg(
        id = "kafka_sasl_mechanism",
        long = "kafka-sasl-mechanism",
        env = "KAFKA_SASL_MECHANISM",
        value_enum,
        ignore_case = true,
        value_name = "MECHANISM"
    )]
    pub mechanism: Option<SaslMechanism>,
    /// SASL user name. `@PATH` reads it from a file.
    #[arg(
        id = "kafka_sasl_username",
        long = "kafka-sasl-username",
        env = "KAFKA_SASL_USERNAME",
        value_name = "USER",
        value_parser = parse_secret,
        hide_env_values = true
    )]
    pub username: Option<SecretString>,
    /// SASL password. `@PATH` reads it from a file.
    #[arg(
        id = "kafka_sasl_password",
        long = "kafka-sasl-password",
        env = "KAFKA_SASL_PASSWORD",
        value_name = "PASSWORD",
        value_parser = parse_secret,
        hide_env_values = true
    )]
    pub password: Option<SecretString>,
    /// PEM file with the client certificate and its intermediate certificates, for mutual TLS.
    #[arg(
        id = "kafka_client_cert_file",
        long = "kafka-client-cert-file",
        env = "KAFKA_CLIENT_CERT_FILE",
        value_name = "PATH"
    )]
    pub client_certificate: Option<PathBuf>,
    /// PEM file with the private key of the client certificate, not encrypted.
    #[arg(
        id = "kafka_client_key_file",
        long = "kafka-client-key-file",
        env = "KAFKA_CLIENT_KEY_FILE",
        value_name = "PATH"
    )]
    pub client_key: Option<PathBuf>,
}

/// The protocol of a Kafka listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SecurityProtocol {
    /// Neither TLS nor authentication.
    #[default]
    #[value(name = "plaintext")]
    Plaintext,
    /// TLS.
    #[value(name = "ssl")]
    Ssl,
    /// SASL authentication without TLS.
    #[value(name = "sasl_plaintext")]
    SaslPlaintext,
    /// SASL authentication over TLS.
    #[value(name = "sasl_ssl")]
    SaslSsl,
}

/// A SASL mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SaslMechanism {
    /// Sends the password itself: use it only over TLS.
    #[value(name = "PLAIN")]
    Plain,
    /// Proves the password without sending it.
    #[value(name = "SCRAM-SHA-256")]
    ScramSha256,
    /// Proves the password without sending it.
    #[value(name = "SCRAM-SHA-512")]
    ScramSha512,
}

impl SecurityProtocol {
    /// The value of the Kafka client setting.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }

    /// Whether the protocol uses TLS.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    /// Whether the protocol authenticates with SASL.
    #[must_use]
    pub const fn is_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

impl SaslMechanism {
    /// The value of the Kafka client setting.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl KafkaSettings {
    /// Settings of a Kafka that only needs these addresses.
    #[must_use]
    pub fn at(brokers: impl Into<String>, topic: impl Into<String>) -> Self {
        Self { brokers: brokers.into(), topic: topic.into(), ..Self::default() }
    }

    /// The name of the dead-letter topic.
    #[must_use]
    pub fn dead_letter_topic(&self) -> String {
        format!("{}.dlq", self.topic)
    }

    /// Rejects settings that contradict each other.
    pub fn check(&self) -> Result<(), SettingsError> {
        let credentials = [self.mechanism.is_some(), self.username.is_some(), self.password.is_some()];
        if self.protocol.is_sasl() {
            ensure(
                credentials == [true; 3],
                "--kafka-security-protocol sasl_... requires --kafka-sasl-mechanism, --kafka-sasl-username and \
                 --kafka-sasl-password",
            )?;
        } else {
            ensure(
                credentials == [false; 3],
                "--kafka-sasl-... requires SASL: --kafka-security-protocol must be sasl_ssl or sasl_plaintext",
            )?;
        }
        let certificates =
            [self.ca_certificates.is_some(), self.client_certificate.is_some(), self.client_key.is_some()];
        ensure(
            self.protocol.is_tls() || certificates == [false; 3],
            "--kafka-ca-file and --kafka-client-... require TLS: --kafka-security-protocol must be ssl or sasl_ssl",
        )?;
        ensure(
            self.client_certificate.is_some() == self.client_key.is_some(),
            "--kafka-client-cert-file and --kafka-client-key-file must be set together",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradicting_settings_are_rejected_with_the_flag() {
        let bare = KafkaSettings::at("k:9092", "t");
        assert_eq!(bare.check(), Ok(()));
        let sasl = KafkaSettings {
            protocol: SecurityProtocol::SaslSsl,
            mechanism: Some(SaslMechanism::ScramSha512),
            username: Some("u".into()),
            password: Some("secret".into()),
            ..bare.clone()
        };
        assert_eq!(sasl.check(), Ok(()));
        assert!(!format!("{sasl:?}").contains("secret"), "{sasl:?}");
        let error = |settings: KafkaSettings| settings.check().unwrap_err().to_string();
        assert!(error(KafkaSettings { mechanism: None, ..sasl.clone() }).contains("--kafka-sasl-mechanism"));
        assert!(error(KafkaSettings { protocol: SecurityProtocol::Ssl, ..sasl.clone() }).contains("sasl_ssl"));
        let key = KafkaSettings { client_key: Some("key".into()), ..bare };
        assert!(error(key.clone()).contains("require TLS"));
        assert!(error(KafkaSettings { protocol: SecurityProtocol::Ssl, ..key }).contains("set together"));
    }
}
