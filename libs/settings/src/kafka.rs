//! Where Kafka is.

use std::path::PathBuf;

use crate::{Authorities, Secret, SettingsError, ensure};

/// Where Kafka is, and which topic the records are on.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Kafka")]
pub struct KafkaSettings {
    /// Kafka's bootstrap servers: host:port, several separated by commas.
    #[arg(id = "kafka_brokers", long = "kafka-brokers", env = "KAFKA_BROKERS", value_name = "HOST:PORT,...")]
    pub brokers: String,
    /// The topic of the issued records. What can never be recorded goes to `<TOPIC>.dlq`.
    #[arg(
        id = "kafka_topic",
        long = "kafka-topic",
        env = "KAFKA_TOPIC",
        default_value = "coupon-issued",
        value_name = "TOPIC"
    )]
    pub topic: String,
    /// What the brokers' listener speaks.
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
    /// PEM file with the authorities that the brokers' certificates may come from. Without it: the public ones (Mozilla's
    /// list).
    #[arg(id = "kafka_ca_file", long = "kafka-ca-file", env = "KAFKA_CA_FILE", value_name = "PATH", value_parser = Authorities::read)]
    pub authorities: Option<Authorities>,
    /// How to log in, with a protocol that begins with `sasl`.
    #[arg(
        id = "kafka_sasl_mechanism",
        long = "kafka-sasl-mechanism",
        env = "KAFKA_SASL_MECHANISM",
        value_enum,
        ignore_case = true,
        value_name = "MECHANISM"
    )]
    pub mechanism: Option<SaslMechanism>,
    /// The user to log in as. `@PATH` reads it from a file.
    #[arg(id = "kafka_sasl_username", long = "kafka-sasl-username", env = "KAFKA_SASL_USERNAME", value_name = "USER", value_parser = Secret::parse, hide_env_values = true)]
    pub username: Option<Secret>,
    /// The user's password. `@PATH` reads it from a file.
    #[arg(id = "kafka_sasl_password", long = "kafka-sasl-password", env = "KAFKA_SASL_PASSWORD", value_name = "PASSWORD", value_parser = Secret::parse, hide_env_values = true)]
    pub password: Option<Secret>,
    /// PEM file with a certificate to show to the brokers, where they ask for one, and those of its issuers.
    #[arg(
        id = "kafka_client_cert_file",
        long = "kafka-client-cert-file",
        env = "KAFKA_CLIENT_CERT_FILE",
        value_name = "PATH"
    )]
    pub client_certificate: Option<PathBuf>,
    /// PEM file with the certificate's private key, not encrypted.
    #[arg(
        id = "kafka_client_key_file",
        long = "kafka-client-key-file",
        env = "KAFKA_CLIENT_KEY_FILE",
        value_name = "PATH"
    )]
    pub client_key: Option<PathBuf>,
}

/// What a listener of Kafka speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SecurityProtocol {
    /// Neither TLS nor a login.
    #[default]
    #[value(name = "plaintext")]
    Plaintext,
    /// TLS.
    #[value(name = "ssl")]
    Ssl,
    /// A login, without TLS.
    #[value(name = "sasl_plaintext")]
    SaslPlaintext,
    /// A login over TLS.
    #[value(name = "sasl_ssl")]
    SaslSsl,
}

/// How to log in to Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SaslMechanism {
    /// The password itself is sent, so over TLS if anyone could listen.
    #[value(name = "PLAIN")]
    Plain,
    /// The password is proven.
    #[value(name = "SCRAM-SHA-256")]
    ScramSha256,
    /// The password is proven.
    #[value(name = "SCRAM-SHA-512")]
    ScramSha512,
}

impl SecurityProtocol {
    /// Kafka's own name for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }

    /// Whether it is over TLS.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    /// Whether it has a login.
    #[must_use]
    pub const fn has_login(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

impl SaslMechanism {
    /// Kafka's own name for it.
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
    /// A Kafka at this address that needs nothing else.
    #[must_use]
    pub fn at(brokers: impl Into<String>, topic: impl Into<String>) -> Self {
        Self { brokers: brokers.into(), topic: topic.into(), ..Self::default() }
    }

    /// The name of the dead-letter topic.
    #[must_use]
    pub fn dead_letter_topic(&self) -> String {
        format!("{}.dlq", self.topic)
    }

    /// Whether the settings fit together.
    pub fn check(&self) -> Result<(), SettingsError> {
        let login = [self.mechanism.is_some(), self.username.is_some(), self.password.is_some()];
        if self.protocol.has_login() {
            ensure(
                login == [true; 3],
                "--kafka-security-protocol sasl_... needs --kafka-sasl-mechanism, --kafka-sasl-username and --kafka-sasl-password",
            )?;
        } else {
            ensure(
                login == [false; 3],
                "--kafka-sasl-... is given, but without a login: --kafka-security-protocol must be sasl_ssl or sasl_plaintext",
            )?;
        }
        let certificates = [self.authorities.is_some(), self.client_certificate.is_some(), self.client_key.is_some()];
        ensure(
            self.protocol.is_tls() || certificates == [false; 3],
            "--kafka-ca-file or --kafka-client-... is given, but without TLS: --kafka-security-protocol must be ssl or sasl_ssl",
        )?;
        ensure(
            self.client_certificate.is_some() == self.client_key.is_some(),
            "--kafka-client-cert-file and --kafka-client-key-file need each other",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_together_is_named() {
        let bare = KafkaSettings::at("k:9092", "t");
        assert_eq!(bare.check(), Ok(()));
        let sasl = KafkaSettings {
            protocol: SecurityProtocol::SaslSsl,
            mechanism: Some(SaslMechanism::ScramSha512),
            username: Some(Secret::from("u")),
            password: Some(Secret::from("secret")),
            ..bare.clone()
        };
        assert_eq!(sasl.check(), Ok(()));
        assert!(!format!("{sasl:?}").contains("secret"), "{sasl:?}");
        let refused = |settings: KafkaSettings| settings.check().unwrap_err().to_string();
        assert!(refused(KafkaSettings { mechanism: None, ..sasl.clone() }).contains("--kafka-sasl-mechanism"));
        assert!(refused(KafkaSettings { protocol: SecurityProtocol::Ssl, ..sasl.clone() }).contains("sasl_ssl"));
        let key = KafkaSettings { client_key: Some("key".into()), ..bare };
        assert!(refused(key.clone()).contains("without TLS"));
        assert!(refused(KafkaSettings { protocol: SecurityProtocol::Ssl, ..key }).contains("need each other"));
    }
}
