//! Kafka with TLS and SASL.

use std::{error::Error, time::Duration};

use couponry_domain::{Discount, DiscountType, IssuedCoupon, IssuedRecord, Uuid};
use couponry_kafka::{Consumer, DeadLetterProducer, KafkaError, LagClient, Producer, TopicSettings, topics};
use couponry_settings::{CaCertificates, KafkaSettings, SaslMechanism, SecurityProtocol};
use couponry_testbed::{CertificateAuthority, Kafka};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout of calls that are expected to fail: librdkafka needs some time to log the cause.
const FAILURE_TIMEOUT: Duration = Duration::from_secs(5);

fn ca_certificates(authority: &CertificateAuthority) -> CaCertificates {
    CaCertificates::read(authority.path().to_str().unwrap()).unwrap()
}

/// The error with its sources.
fn chain(error: &KafkaError) -> String {
    let errors = std::iter::successors(Some(error as &dyn Error), |&error| error.source());
    errors.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

async fn ping_error(settings: KafkaSettings) -> String {
    let error = chain(&Producer::new(&settings).unwrap().ping(FAILURE_TIMEOUT).await.unwrap_err());
    assert!(!error.contains("s3cret"), "{error}");
    error
}

#[tokio::test]
async fn clients_without_valid_tls_or_credentials_receive_error_with_cause() {
    let (authority, other) = (CertificateAuthority::new().unwrap(), CertificateAuthority::new().unwrap());
    let kafka = Kafka::start_secure(&authority, "couponry", "s3cret").unwrap();
    let good = KafkaSettings {
        protocol: SecurityProtocol::SaslSsl,
        ca_certificates: Some(ca_certificates(&authority)),
        mechanism: Some(SaslMechanism::ScramSha512),
        username: Some("couponry".into()),
        password: Some("s3cret".into()),
        ..KafkaSettings::at(kafka.login(), "coupon-issued")
    };

    let expected =
        TopicSettings { partitions: 2, replication: 1, min_insync_replicas: 1, retention: None, used_topic: None };
    assert_eq!(topics::ensure(&good, &expected).await.unwrap(), []);
    let producer = Producer::new(&good).unwrap();
    let record = IssuedRecord {
        event_id: "summer".parse().unwrap(),
        event_uid: Uuid::from_u128(1),
        issued: IssuedCoupon {
            user_id: "user".parse().unwrap(),
            coupon: "SUMMER-1".parse().unwrap(),
            discount: Discount { kind: DiscountType::Percent, value: 10 },
            issued_at: 1,
        },
        valid_until: None,
    };
    producer.send(&record).unwrap().await.unwrap();
    DeadLetterProducer::new(&good).unwrap().ping(TIMEOUT).await.unwrap();
    let mut consumer = Consumer::new(&good, "group").unwrap();
    let batch = consumer.next_batch(1, Duration::ZERO).await.unwrap();
    assert_eq!(batch.messages.len(), 1);
    consumer.commit(&batch).await.unwrap();
    assert_eq!(LagClient::new(&good, "group").unwrap().measure(TIMEOUT).await.unwrap(), 0);

    let plain = KafkaSettings { mechanism: Some(SaslMechanism::Plain), ..good.clone() };
    Producer::new(&plain).unwrap().ping(TIMEOUT).await.unwrap();
    for mechanism in [SaslMechanism::Plain, SaslMechanism::ScramSha512] {
        let wrong = KafkaSettings { mechanism: Some(mechanism), password: Some("s3cret2".into()), ..good.clone() };
        let error = ping_error(wrong.clone()).await;
        assert!(error.contains("SASL authentication error"), "{error}");
        let lag = LagClient::new(&wrong, "group").unwrap().measure(FAILURE_TIMEOUT).await;
        for error in [topics::ensure(&wrong, &expected).await.unwrap_err(), lag.unwrap_err()] {
            assert!(chain(&error).contains("SASL authentication error"), "{error}");
        }
    }
    let error = ping_error(KafkaSettings { ca_certificates: Some(ca_certificates(&other)), ..good.clone() }).await;
    assert!(error.contains("certificate verify failed"), "{error}");
    let error = ping_error(KafkaSettings { ca_certificates: None, ..good.clone() }).await;
    assert!(error.contains("certificate verify failed"), "{error}");
    let error = ping_error(KafkaSettings { brokers: kafka.plaintext(), ..good.clone() }).await;
    assert!(error.contains("PLAINTEXT"), "{error}");
    let error = ping_error(KafkaSettings::at(kafka.login(), "coupon-issued")).await;
    assert!(error.contains("--kafka-security-protocol"), "{error}");

    let client = authority.issue("client").unwrap();
    let mutual = KafkaSettings {
        protocol: SecurityProtocol::Ssl,
        ca_certificates: Some(ca_certificates(&authority)),
        client_certificate: Some(client.certificate),
        client_key: Some(client.key),
        ..KafkaSettings::at(kafka.mutual(), "coupon-issued")
    };
    Producer::new(&mutual).unwrap().ping(TIMEOUT).await.unwrap();
    let error = ping_error(KafkaSettings { client_certificate: None, client_key: None, ..mutual.clone() }).await;
    assert!(error.contains("SSL") || error.contains("certificate"), "{error}");
    let error = chain(&Producer::new(&KafkaSettings { client_key: Some("/nowhere".into()), ..mutual }).unwrap_err());
    assert!(error.contains("/nowhere") || error.contains("ssl.key.location"), "{error}");
}

#[tokio::test]
async fn contradicting_settings_return_error_with_flag() {
    let settings = KafkaSettings { username: Some("couponry".into()), ..KafkaSettings::at("k:9092", "t") };
    let error = Producer::new(&settings).unwrap_err();
    assert!(matches!(error, KafkaError::Settings(_)) && error.to_string().contains("--kafka-security-protocol"));
}
