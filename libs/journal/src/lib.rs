//! The issued records in Kafka: topics, producer, consumer, encoding.
