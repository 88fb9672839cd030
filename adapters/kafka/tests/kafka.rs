//! The Kafka adapter with a real Kafka.

mod support;

use std::{collections::HashSet, time::Duration};

use couponry_domain::IssuedRecord;
use couponry_kafka::{
    Batch, Consumer, DeadLetterProducer, KafkaError, KafkaSettings, LagClient, Message, Producer, TopicSettings,
    read_all, topics,
};
use couponry_testbed::{shared, unique_name};
use futures::future::join_all;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use crate::support::{record, write};

const LINGER: Duration = Duration::from_millis(50);

/// Of one step, on a loaded machine.
const TIMEOUT: Duration = Duration::from_mins(1);

fn settings() -> KafkaSettings {
    KafkaSettings::at(shared::kafka(), unique_name("topic"))
}

fn expected(partitions: i32) -> TopicSettings {
    TopicSettings {
        partitions,
        replication: 1,
        min_insync_replicas: 1,
        retention: Some(Duration::from_hours(24)),
        used_topic: None,
    }
}

async fn topic(partitions: i32) -> KafkaSettings {
    let settings = settings();
    assert_eq!(topics::ensure(&settings, &expected(partitions)).await.unwrap(), []);
    settings
}

fn decode(message: &Message) -> IssuedRecord {
    IssuedRecord::decode(message.version(), &message.payload).unwrap()
}

/// Consumes batches until they have `count` messages.
async fn take(consumer: &mut Consumer, count: usize) -> Batch {
    let mut taken = Batch::default();
    while taken.messages.len() < count {
        let batch = consumer.next_batch(count - taken.messages.len(), LINGER).await.unwrap();
        taken.messages.extend(batch.messages);
    }
    taken
}

fn users(batch: &Batch) -> HashSet<String> {
    batch.messages.iter().map(|message| decode(message).issued.user_id.to_string()).collect()
}

#[tokio::test]
async fn ensure_called_concurrently_creates_topic_once() {
    let settings = settings();
    let expected = expected(3);
    for result in join_all((0..4).map(|_| topics::ensure(&settings, &expected))).await {
        assert_eq!(result.unwrap(), []);
    }
    assert_eq!(topics::ensure(&settings, &expected).await.unwrap(), []);
    write(&settings, 0..50).await;
    let partitions: HashSet<_> = read_all(&settings).await.unwrap().iter().map(|m| m.partition).collect();
    assert_eq!(partitions, HashSet::from([0, 1, 2]));
}

#[tokio::test]
async fn ensure_creates_the_topic_of_uses_only_if_it_is_named() {
    let settings = settings();
    let used = KafkaSettings { topic: unique_name("used"), ..settings.clone() };
    topics::ensure(&settings, &expected(3)).await.unwrap();
    assert!(read_all(&used).await.is_err());
    let expected = TopicSettings { used_topic: Some(used.topic.clone()), ..expected(3) };
    assert_eq!(topics::ensure(&settings, &expected).await.unwrap(), []);
    write(&used, 0..50).await;
    let partitions: HashSet<_> = read_all(&used).await.unwrap().iter().map(|m| m.partition).collect();
    assert_eq!(partitions, HashSet::from([0, 1, 2]));
}

#[tokio::test]
async fn ensure_with_existing_topic_returns_mismatches_and_changes_nothing() {
    let settings = topic(2).await;
    let expected = TopicSettings {
        partitions: 4,
        replication: 2,
        min_insync_replicas: 2,
        retention: Some(Duration::from_hours(48)),
        used_topic: None,
    };
    for _ in 0..2 {
        let mismatches = topics::ensure(&settings, &expected).await.unwrap();
        let messages: Vec<_> = mismatches.iter().map(ToString::to_string).collect();
        let (topic, dead) = (&settings.topic, settings.dead_letter_topic());
        assert_eq!(
            messages,
            [
                format!("topic {topic}: partitions is 2, expected 4"),
                format!("topic {topic}: replication is 1, expected 2"),
                format!("topic {topic}: min.insync.replicas is 1, expected 2"),
                format!("topic {topic}: retention.ms is 86400000, expected 172800000"),
                format!("topic {dead}: replication is 1, expected 2"),
                format!("topic {dead}: min.insync.replicas is 1, expected 2"),
            ]
        );
    }
}

/// Otherwise the brokers would reject records of an issuer whose clock is an hour ahead.
#[tokio::test]
async fn brokers_set_the_timestamps_of_records() {
    let settings = topic(1).await;
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &settings.brokers).create().unwrap();
    let ahead = i64::MAX / 1_000_000;
    producer.send(BaseRecord::<(), _>::to(&settings.topic).payload("x").timestamp(ahead)).unwrap();
    producer.flush(TIMEOUT).unwrap();
    assert_eq!(read_all(&settings).await.unwrap().len(), 1);

    let own = KafkaSettings { topic: unique_name("own"), ..settings };
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", &own.brokers).create().unwrap();
    let topic = NewTopic::new(&own.topic, 1, TopicReplication::Fixed(1)).set("retention.ms", "-1");
    admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
    let mismatches: Vec<_> =
        topics::ensure(&own, &expected(1)).await.unwrap().iter().map(ToString::to_string).collect();
    let expected = format!("topic {}: message.timestamp.type is CreateTime, expected LogAppendTime", own.topic);
    assert_eq!(mismatches, [expected]);
}

#[tokio::test]
async fn ensure_with_too_few_brokers_returns_error_with_flag() {
    let settings = settings();
    let error = topics::ensure(&settings, &TopicSettings { replication: 3, ..expected(1) }).await.unwrap_err();
    let message = format!(
        "cannot create the topic {:?}: the replication factor is 3, but Kafka has only 1 broker(s); start more \
         brokers, or lower --kafka-replication and --kafka-min-insync-replicas",
        settings.topic
    );
    assert_eq!(error.to_string(), message);
}

#[tokio::test]
async fn sent_record_has_user_as_key_and_version_header() {
    let settings = topic(4).await;
    write(&settings, 0..100).await;
    write(&settings, 0..100).await;
    let messages = read_all(&settings).await.unwrap();
    assert_eq!(messages.len(), 200);
    let mut places = HashSet::new();
    for message in &messages {
        let record = decode(message);
        assert_eq!(message.key.as_deref(), Some(record.issued.user_id.as_str().as_bytes()));
        assert_eq!(message.headers, [("schema-version".to_owned(), Some(b"1".to_vec()))]);
        places.insert((record.issued.user_id, message.partition));
    }
    assert_eq!(places.len(), 100, "`send` selects the partition by the user");
}

#[tokio::test]
async fn consumer_after_restart_continues_at_committed_offset() {
    let settings = topic(2).await;
    write(&settings, 0..300).await;
    let group = unique_name("group");

    let mut first = Consumer::new(&settings, &group).unwrap();
    first.ping(Duration::from_secs(20)).await.unwrap();
    let committed = take(&mut first, 100).await;
    first.commit(&committed).await.unwrap();
    let lost = take(&mut first, 100).await;
    first.close(Duration::from_secs(20)).await;

    let mut second = Consumer::new(&settings, &group).unwrap();
    let rest = take(&mut second, 200).await;
    second.commit(&rest).await.unwrap();
    assert!(users(&lost).is_subset(&users(&rest)));
    assert!(users(&committed).is_disjoint(&users(&rest)));
    assert_eq!(users(&committed).len() + users(&rest).len(), 300);
    let more = tokio::time::timeout(Duration::from_millis(500), second.next_batch(1, LINGER)).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn next_batch_dropped_while_waiting_loses_no_message() {
    let settings = topic(1).await;
    write(&settings, 0..50).await;
    let mut consumer = Consumer::new(&settings, &unique_name("group")).unwrap();
    let mut seen = Vec::new();
    while seen.len() < 50 {
        // Usually dropped while it collects messages.
        let wait = consumer.next_batch(1000, Duration::from_millis(7));
        if let Ok(batch) = tokio::time::timeout(Duration::from_millis(5), wait).await {
            seen.extend(batch.unwrap().messages.iter().map(|message| message.offset));
        } else if let Ok(batch) = tokio::time::timeout(Duration::from_millis(20), consumer.next_batch(10, LINGER)).await
        {
            seen.extend(batch.unwrap().messages.iter().map(|message| message.offset));
        }
    }
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn lag_counts_uncommitted_messages() {
    let settings = topic(2).await;
    let group = unique_name("group");
    let lag = LagClient::new(&settings, &group).unwrap();
    let measure = || async { lag.measure(Duration::from_secs(20)).await.unwrap() };
    assert_eq!(measure().await, 0);
    write(&settings, 0..100).await;
    assert_eq!(measure().await, 100);
    let mut consumer = Consumer::new(&settings, &group).unwrap();
    for left in [60, 20] {
        let taken = take(&mut consumer, 40).await;
        consumer.commit(&taken).await.unwrap();
        assert_eq!(measure().await, left);
    }
    consumer.close(Duration::from_secs(20)).await;
    assert_eq!(measure().await, 20);
}

fn transactional_producer(settings: &KafkaSettings) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &settings.brokers)
        .set("transactional.id", unique_name("foreign"))
        .create()
        .unwrap();
    producer.init_transactions(TIMEOUT).unwrap();
    producer
}

/// Other programs may write to the topic, and a transaction that stays open would hold back all records behind it.
#[tokio::test]
async fn open_transaction_of_another_producer_holds_back_nothing() {
    let settings = topic(1).await;
    let group = unique_name("group");
    let foreign = transactional_producer(&settings);
    foreign.begin_transaction().unwrap();
    foreign.send(BaseRecord::<(), _>::to(&settings.topic).payload("foreign")).unwrap();
    foreign.flush(TIMEOUT).unwrap();

    write(&settings, 0..10).await;
    let mut consumer = Consumer::new(&settings, &group).unwrap();
    let received = take(&mut consumer, 11).await;
    consumer.commit(&received).await.unwrap();
    let lag = LagClient::new(&settings, &group).unwrap();
    assert_eq!(lag.measure(Duration::from_secs(20)).await.unwrap(), 0);
    assert_eq!(read_all(&settings).await.unwrap().len(), 11, "the audit reads them as well");
}

/// No consumer receives the marker, but it has an offset: the lag would stay at one.
#[tokio::test]
async fn marker_of_an_ended_transaction_is_committed() {
    let settings = topic(2).await;
    let group = unique_name("group");
    let lag = LagClient::new(&settings, &group).unwrap();
    let foreign = transactional_producer(&settings);
    for (partition, is_aborted) in [(0, false), (1, true)] {
        foreign.begin_transaction().unwrap();
        let record = BaseRecord::<(), _>::to(&settings.topic).partition(partition).payload("foreign");
        foreign.send(record).unwrap();
        foreign.flush(TIMEOUT).unwrap();
        if is_aborted { foreign.abort_transaction(TIMEOUT) } else { foreign.commit_transaction(TIMEOUT) }.unwrap();
    }
    let mut consumer = Consumer::new(&settings, &group).unwrap();
    let received = take(&mut consumer, 2).await;
    consumer.commit(&received).await.unwrap();
    assert_eq!(lag.measure(TIMEOUT).await.unwrap(), 2, "the markers");

    // Also after a restart, when nothing but the markers is left.
    drop(consumer);
    let mut consumer = Consumer::new(&settings, &group).unwrap();
    let committed = async {
        while lag.measure(TIMEOUT).await.unwrap() > 0 {
            let batch = consumer.next_batch(100, LINGER).await.unwrap();
            assert_eq!(batch.messages, []);
            consumer.commit(&batch).await.unwrap();
        }
    };
    tokio::time::timeout(TIMEOUT, committed).await.expect("the markers are committed");
    write(&settings, 0..10).await;
    let received = take(&mut consumer, 10).await;
    consumer.commit(&received).await.unwrap();
    assert_eq!(lag.measure(TIMEOUT).await.unwrap(), 0);
}

#[tokio::test]
async fn commit_of_batch_from_before_rebalance_is_ignored() {
    let settings = topic(1).await;
    let group = unique_name("group");
    let lag = LagClient::new(&settings, &group).unwrap();
    write(&settings, 0..10).await;
    let mut first = Consumer::new(&settings, &group).unwrap();
    let old = take(&mut first, 10).await;
    let committer = first.committer();

    // The second member causes a rebalance, after which the partition is consumed again from its committed offset.
    let mut second = Consumer::new(&settings, &group).unwrap();
    let again = tokio::select! {
        again = first.next_batch(1, LINGER) => again,
        again = second.next_batch(1, LINGER) => again,
    };
    assert_eq!(again.unwrap().messages, old.messages[..1]);
    second.close(Duration::from_secs(20)).await;
    write(&settings, 10..20).await;
    let mut offset = None;
    while offset != Some(19) {
        let batch = first.next_batch(20, LINGER).await.unwrap();
        offset = batch.messages.last().map(|message| message.offset);
        first.commit(&batch).await.unwrap();
    }
    assert_eq!(lag.measure(Duration::from_secs(20)).await.unwrap(), 0);
    committer.commit(&old).await.unwrap();
    assert_eq!(lag.measure(Duration::from_secs(20)).await.unwrap(), 0);
}

#[tokio::test]
async fn consumers_of_one_group_share_partitions() {
    let settings = topic(4).await;
    let group = unique_name("group");
    let mut consumers = [Consumer::new(&settings, &group).unwrap(), Consumer::new(&settings, &group).unwrap()];
    let mut seen = [HashSet::new(), HashSet::new()];
    let mut sent = 0;
    // Joining a group takes time: records are written until both consumers have received some.
    // A rebalance can deliver a record to both.
    while seen.iter().any(HashSet::is_empty) || seen[0].union(&seen[1]).count() < sent {
        if seen.iter().any(HashSet::is_empty) {
            write(&settings, sent..sent + 40).await;
            sent += 40;
        }
        for (consumer, seen) in consumers.iter_mut().zip(&mut seen) {
            if let Ok(batch) = tokio::time::timeout(Duration::from_millis(200), consumer.next_batch(100, LINGER)).await
            {
                let batch = batch.unwrap();
                seen.extend(users(&batch));
                consumer.commit(&batch).await.unwrap();
            }
        }
    }
    assert_eq!(seen[0].union(&seen[1]).count(), sent);
}

#[tokio::test]
async fn dead_letter_contains_message_and_reason() {
    let settings = topic(2).await;
    let letters = DeadLetterProducer::new(&settings).unwrap();
    letters.ping(Duration::from_secs(20)).await.unwrap();
    let undecodable = Message {
        partition: 1,
        offset: 17,
        key: Some(vec![0xff, 0]),
        payload: b"\x00garbage\xff".to_vec(),
        headers: vec![("schema-version".into(), Some(b"9".to_vec())), ("empty".into(), None)],
    };
    letters.send(&undecodable, "undecodable", "not a JSON object").await.unwrap();
    let huge = Message { key: None, payload: vec![7; 3_000_000], headers: Vec::new(), ..undecodable.clone() };
    letters.send(&huge, "undecodable", "too long").await.unwrap();

    let dead = read_all(&KafkaSettings { topic: settings.dead_letter_topic(), ..settings.clone() }).await.unwrap();
    let [first, second] = dead.as_slice() else { panic!("{} dead letters", dead.len()) };
    assert_eq!((&first.key, &first.payload), (&undecodable.key, &undecodable.payload));
    assert_eq!(first.headers[..2], undecodable.headers[..]);
    let header = |message: &Message, name| String::from_utf8(message.header(name).unwrap().to_vec()).unwrap();
    assert_eq!(header(first, "reason"), "undecodable");
    assert_eq!(header(first, "detail"), "not a JSON object");
    assert_eq!(header(first, "source-topic"), settings.topic);
    assert_eq!((header(first, "source-partition"), header(first, "source-offset")), ("1".into(), "17".into()));
    assert_eq!(header(second, "original-bytes"), "3000000");
    assert_eq!(second.payload, vec![7; 65536]);
}

#[tokio::test]
async fn dead_letter_with_oversized_message_is_truncated() {
    let settings = topic(1).await;
    let letters = DeadLetterProducer::new(&settings).unwrap();
    let small = Message { partition: 0, offset: 1, key: None, payload: b"garbage".to_vec(), headers: Vec::new() };
    // The limit is in the middle of a character.
    letters.send(&small, "undecodable", &format!("x{}", "é".repeat(1_000_000))).await.unwrap();
    let huge_key = Message { key: Some(vec![b'k'; 2_000_000]), ..small.clone() };
    letters.send(&huge_key, "undecodable", "why").await.unwrap();
    let headers = vec![("h".repeat(500_000), Some(vec![0xff; 900_000])), ("empty".into(), None)];
    letters.send(&Message { headers, ..small.clone() }, "undecodable", "why").await.unwrap();
    let headers = (0..20_000).map(|i| (format!("header-{i}"), Some(vec![b'x'; 90]))).collect();
    letters.send(&Message { headers, ..small.clone() }, "undecodable", "why").await.unwrap();

    let dead = read_all(&KafkaSettings { topic: settings.dead_letter_topic(), ..settings.clone() }).await.unwrap();
    let [detail, key, header, many] = dead.as_slice() else { panic!("{} dead letters", dead.len()) };
    assert!(dead.iter().all(|letter| letter.payload == small.payload && letter.header("reason").is_some()));
    assert_eq!(detail.header("detail"), Some(format!("x{}…", "é".repeat(511)).as_bytes()));
    assert_eq!(key.key, Some(vec![b'k'; 1024]));
    assert_eq!(header.headers[0], (format!("{}…", "h".repeat(1024)), Some(vec![0xff; 1024])));
    assert_eq!(header.headers[1], ("empty".to_owned(), None));
    assert_eq!((many.headers[31].0.as_str(), many.headers[32].0.as_str()), ("header-31", "reason"));
    assert!(dead[1..].iter().all(|letter| letter.header("original-bytes") == Some(b"7")));
}

#[tokio::test]
async fn unreachable_broker_and_missing_topic_return_errors() {
    let unreachable = KafkaSettings::at("127.0.0.1:1", "coupon-issued");
    let producer = Producer::new(&unreachable).unwrap();
    let pending = producer.send(&record(1)).unwrap();
    let error = producer.ping(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot reach Kafka");
    assert!(producer.flush(Duration::from_millis(100)).await.is_err());
    assert!(futures::future::FutureExt::now_or_never(pending).is_none());
    let consumer = Consumer::new(&unreachable, "group").unwrap();
    assert!(consumer.ping(Duration::from_secs(1)).await.is_err());
    consumer.close(Duration::from_secs(20)).await;
    assert!(read_all(&unreachable).await.is_err());

    let missing = settings();
    let producer = Producer::new(&missing).unwrap();
    assert!(matches!(producer.ping(Duration::from_secs(20)).await, Err(KafkaError::TopicNotFound(_))));
    let consumer = Consumer::new(&missing, &unique_name("group")).unwrap();
    assert!(matches!(consumer.ping(Duration::from_secs(20)).await, Err(KafkaError::TopicNotFound(_))));
    let letters = DeadLetterProducer::new(&missing).unwrap();
    assert!(matches!(letters.ping(Duration::from_secs(20)).await, Err(KafkaError::TopicNotFound(_))));
    assert!(matches!(read_all(&missing).await, Err(KafkaError::TopicNotFound(_))));
}

#[tokio::test]
async fn send_with_full_queue_returns_error_immediately() {
    let unreachable = KafkaSettings::at("127.0.0.1:1", "coupon-issued");
    let producer = Producer::new(&unreachable).unwrap();
    let mut sent = 0;
    while producer.send(&record(1)).is_ok() {
        sent += 1;
        assert!(sent < 1_000_000, "the queue has no limit");
    }
    assert!(sent > 1000);
}
