//! A Kafka with TLS and users.

use std::time::Duration;

use couponry_domain::{Discount, DiscountType, IssuedRecord, Uuid};
use couponry_kafka::{Consumer, DeadLetters, JournalError, Lag, Producer, TopicSettings, topics};
use couponry_settings::{Authorities, KafkaSettings, SaslMechanism, SecurityProtocol};
use couponry_testbed::{Authority, Kafka};

const PATIENCE: Duration = Duration::from_secs(30);
/// For what never works: long enough for librdkafka to find out why.
const SOON: Duration = Duration::from_secs(5);

fn authorities(authority: &Authority) -> Authorities {
    Authorities::read(authority.path().to_str().unwrap()).unwrap()
}

async fn refused(settings: KafkaSettings) -> String {
    let error = Producer::new(&settings).unwrap().ping(SOON).await.unwrap_err().to_string();
    assert!(!error.contains("s3cret"), "{error}");
    error
}

#[tokio::test]
async fn users_log_in_over_tls_or_are_told_why_not() {
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    let kafka = Kafka::start_secure(&authority, "couponry", "s3cret").unwrap();
    let good = KafkaSettings {
        protocol: SecurityProtocol::SaslSsl,
        authorities: Some(authorities(&authority)),
        mechanism: Some(SaslMechanism::ScramSha512),
        username: Some("couponry".into()),
        password: Some("s3cret".into()),
        ..KafkaSettings::at(kafka.login(), "coupon-issued")
    };

    let wanted = TopicSettings { partitions: 2, replication: 1, min_insync_replicas: 1, retention: None };
    assert_eq!(topics::ensure(&good, &wanted).await.unwrap(), []);
    let producer = Producer::new(&good).unwrap();
    let record = IssuedRecord {
        event_id: "summer".parse().unwrap(),
        event_uid: Uuid::from_u128(1),
        user_id: "user".parse().unwrap(),
        coupon: "SUMMER-1".parse().unwrap(),
        discount: Discount { kind: DiscountType::Percent, value: 10 },
        issued_at: 1,
    };
    producer.send(&record).unwrap().await.unwrap();
    DeadLetters::new(&good).unwrap().ping(PATIENCE).await.unwrap();
    let mut consumer = Consumer::new(&good, "group").unwrap();
    let batch = consumer.next_batch(1, Duration::ZERO).await.unwrap();
    assert_eq!(batch.messages.len(), 1);
    consumer.commit(&batch).await.unwrap();
    assert_eq!(Lag::new(&good, "group").unwrap().measure(PATIENCE).await.unwrap(), 0);

    let plain = KafkaSettings { mechanism: Some(SaslMechanism::Plain), ..good.clone() };
    Producer::new(&plain).unwrap().ping(PATIENCE).await.unwrap();
    for mechanism in [SaslMechanism::Plain, SaslMechanism::ScramSha512] {
        let wrong = KafkaSettings { mechanism: Some(mechanism), password: Some("s3cret2".into()), ..good.clone() };
        let error = refused(wrong.clone()).await;
        assert!(error.contains("SASL authentication error"), "{error}");
        let lag = Lag::new(&wrong, "group").unwrap().measure(SOON).await;
        for error in [topics::ensure(&wrong, &wanted).await.unwrap_err(), lag.unwrap_err()] {
            assert!(error.to_string().contains("SASL authentication error"), "{error}");
        }
    }
    let error = refused(KafkaSettings { authorities: Some(authorities(&stranger)), ..good.clone() }).await;
    assert!(error.contains("certificate verify failed"), "{error}");
    let error = refused(KafkaSettings { authorities: None, ..good.clone() }).await;
    assert!(error.contains("certificate verify failed"), "{error}");
    let error = refused(KafkaSettings { brokers: kafka.plaintext(), ..good.clone() }).await;
    assert!(error.contains("PLAINTEXT"), "{error}");
    let error = refused(KafkaSettings::at(kafka.login(), "coupon-issued")).await;
    assert!(error.contains("--kafka-security-protocol"), "{error}");

    let client = authority.certify("client").unwrap();
    let mutual = KafkaSettings {
        protocol: SecurityProtocol::Ssl,
        authorities: Some(authorities(&authority)),
        client_certificate: Some(client.certificate),
        client_key: Some(client.key),
        ..KafkaSettings::at(kafka.mutual(), "coupon-issued")
    };
    Producer::new(&mutual).unwrap().ping(PATIENCE).await.unwrap();
    let error = refused(KafkaSettings { client_certificate: None, client_key: None, ..mutual.clone() }).await;
    assert!(error.contains("SSL") || error.contains("certificate"), "{error}");
    let error =
        Producer::new(&KafkaSettings { client_key: Some("/nowhere".into()), ..mutual }).unwrap_err().to_string();
    assert!(error.contains("/nowhere") || error.contains("ssl.key.location"), "{error}");
}

#[tokio::test]
async fn what_does_not_fit_together_is_told_at_once() {
    let settings = KafkaSettings { username: Some("couponry".into()), ..KafkaSettings::at("k:9092", "t") };
    let error = Producer::new(&settings).unwrap_err();
    assert!(matches!(error, JournalError::Settings(_)) && error.to_string().contains("--kafka-security-protocol"));
}
