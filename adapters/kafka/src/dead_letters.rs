//! The room for messages that can never be recorded.

use std::{borrow::Cow, sync::Arc, time::Duration};

use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::FutureRecord,
};

use crate::{JournalError, KafkaSettings, Message, error::Operation, lasting::LastingProducer};

/// How much of the value is kept when the topic does not take the whole message.
const KEPT_BYTES: usize = 64 * 1024;
/// And how much of the key, and of the name and the value of a header.
const KEPT_SMALL_BYTES: usize = 1024;
/// And how many headers.
const KEPT_HEADERS: usize = 32;
/// How much of the detail is kept, always: it may quote the whole message.
const KEPT_DETAIL_BYTES: usize = 1024;

/// Writes to the dead-letter topic.
#[derive(Clone)]
pub struct DeadLetters {
    lasting: Arc<LastingProducer>,
    source: String,
    topic: String,
}

impl DeadLetters {
    /// Connects in the background: fails only when the settings are no good.
    pub fn new(settings: &KafkaSettings) -> Result<Self, JournalError> {
        let lasting = Arc::new(LastingProducer::new(settings)?);
        Ok(Self { lasting, source: settings.topic.clone(), topic: settings.dead_letter_topic() })
    }

    /// Writes the message as it is, with its own headers and with these: `reason` (a short name), `detail` (for people),
    /// `source-topic`, `source-partition`, `source-offset`. Done when all in-sync replicas have it; after an error it may
    /// be there all the same.
    ///
    /// A long `detail` is cut. A message that is too large for the topic is cut as well: 64 KiB of its value, 1 KiB of its
    /// key, and the first 32 headers with 1 KiB each are kept, and the header `original-bytes` has the size of the value.
    pub async fn send(&self, message: &Message, reason: &str, detail: &str) -> Result<(), JournalError> {
        let detail = &shortened(detail, KEPT_DETAIL_BYTES);
        let headers = self.headers(message, reason, detail);
        match self.write(message.key.as_deref(), &message.payload, headers).await {
            Err(cause) if cause.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                let (kept, size) = (cut(message), message.payload.len().to_string());
                let headers =
                    self.headers(&kept, reason, detail).insert(Header { key: "original-bytes", value: Some(&size) });
                self.write(kept.key.as_deref(), &kept.payload, headers).await
            }
            result => result,
        }
        .map_err(JournalError::at(Operation::DeadLetter))
    }

    /// Whether the brokers answer within `timeout` and know the topic and its dead-letter topic.
    pub async fn ping(&self, timeout: Duration) -> Result<(), JournalError> {
        for topic in [&self.source, &self.topic] {
            self.lasting.ping(topic, timeout).await?;
        }
        Ok(())
    }

    fn headers(&self, message: &Message, reason: &str, detail: &str) -> OwnedHeaders {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &message.headers {
            headers = headers.insert(Header { key, value: value.as_deref() });
        }
        let (partition, offset) = (message.partition.to_string(), message.offset.to_string());
        let own = [
            ("reason", reason),
            ("detail", detail),
            ("source-topic", &self.source),
            ("source-partition", &partition),
            ("source-offset", &offset),
        ];
        own.into_iter().fold(headers, |headers, (key, value)| headers.insert(Header { key, value: Some(value) }))
    }

    async fn write(&self, key: Option<&[u8]>, payload: &[u8], headers: OwnedHeaders) -> Result<(), KafkaError> {
        loop {
            let current = self.lasting.current();
            let mut record = FutureRecord::<[u8], [u8]>::to(&self.topic).payload(payload).headers(headers.clone());
            record.key = key;
            let cause = match current.producer.send_result(record) {
                Ok(delivery) => match delivery.await {
                    Ok(Ok(_)) => return Ok(()),
                    Ok(Err((cause, _))) => cause,
                    Err(_) => KafkaError::Canceled,
                },
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                Err((cause, _)) => cause,
            };
            self.lasting.replace_if_fatal(current.generation);
            return Err(cause);
        }
    }
}

/// What is kept of a message that is too large.
fn cut(message: &Message) -> Message {
    let Message { partition, offset, key, payload, headers } = message;
    let headers = headers.iter().take(KEPT_HEADERS).map(|(name, value)| {
        let value = value.as_deref().map(|value| beginning(value, KEPT_SMALL_BYTES));
        (shortened(name, KEPT_SMALL_BYTES).into_owned(), value)
    });
    Message {
        partition: *partition,
        offset: *offset,
        key: key.as_deref().map(|key| beginning(key, KEPT_SMALL_BYTES)),
        payload: beginning(payload, KEPT_BYTES),
        headers: headers.collect(),
    }
}

fn beginning(bytes: &[u8], length: usize) -> Vec<u8> {
    bytes[..bytes.len().min(length)].to_vec()
}

/// The text, or as much of it as fits into `length` bytes, and an ellipsis.
fn shortened(text: &str, length: usize) -> Cow<'_, str> {
    if text.len() <= length {
        return text.into();
    }
    format!("{}…", &text[..text.floor_char_boundary(length)]).into()
}

impl std::fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetters").field("topic", &self.topic).finish_non_exhaustive()
    }
}
