//! The dead-letter topic: messages that can never be recorded.

use std::{borrow::Cow, sync::Arc, time::Duration};

use couponry_settings::KafkaSettings;
use rdkafka::{
    error::{KafkaError as RdKafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
};
use tokio::time::Instant;

use crate::{
    delivery::{self, OutgoingRecord, ProducerFull},
    error::{KafkaError, Operation},
    message::Message,
    recreating_producer::RecreatingProducer,
};

/// The first header that is added to a dead letter: a short name of the reason.
const REASON: &str = "reason";
/// Stands for a reason that is not a short name.
const UNKNOWN_REASON: &str = "unknown";
/// The limit for the name of a reason.
const MAX_REASON_BYTES: usize = 64;
/// The last header that is added to a truncated dead letter: the size of its value.
const ORIGINAL_BYTES: &str = "original-bytes";

/// The limit for the value of a message that is too large for the topic.
const MAX_VALUE_BYTES: usize = 64 * 1024;
/// The limit for its key, and for the name and the value of each header.
const MAX_FIELD_BYTES: usize = 1024;
/// The limit for the number of its headers.
const MAX_HEADERS: usize = 32;
/// The limit for the detail of every message: it may quote the complete message.
const MAX_DETAIL_BYTES: usize = 1024;

/// Pause before a record is sent again to a producer whose queue is full.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(50);
/// How long a record waits for space in the queue of the producer.
const QUEUE_FULL_TIMEOUT: Duration = Duration::from_secs(30);

/// Writes to the dead-letter topic.
#[derive(Clone)]
pub struct DeadLetterProducer {
    inner: Arc<RecreatingProducer>,
    source: String,
    topic: String,
}

impl DeadLetterProducer {
    /// Connects in the background. Fails only if the settings are invalid.
    pub fn new(settings: &KafkaSettings) -> Result<Self, KafkaError> {
        let inner = Arc::new(RecreatingProducer::new(settings)?);
        Ok(Self { inner, source: settings.topic.clone(), topic: settings.dead_letter_topic() })
    }

    /// Writes the unchanged message with its headers and these: `reason` (a short name), `detail` (free text),
    /// `source-topic`, `source-partition`, `source-offset`. Returns when all in-sync replicas have acknowledged it;
    /// after an error it may have been written.
    ///
    /// A long `detail` is truncated. A message that is too large for the topic is truncated as well: to 64 KiB of its
    /// value, 1 KiB of its key, and its first 32 headers with 1 KiB each. The header `original-bytes` then has the size
    /// of the value.
    pub async fn send(&self, message: &Message, reason: &str, detail: &str) -> Result<(), KafkaError> {
        let detail = &ellipsized(detail, MAX_DETAIL_BYTES);
        let headers = self.headers(message, reason, detail);
        match self.write(message.key.as_deref(), &message.payload, headers).await {
            Err(cause) if cause.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                let (kept, size) = (truncated(message), message.payload.len().to_string());
                let headers =
                    self.headers(&kept, reason, detail).insert(Header { key: ORIGINAL_BYTES, value: Some(&size) });
                self.write(kept.key.as_deref(), &kept.payload, headers).await
            }
            result => result,
        }
        .map_err(KafkaError::at(Operation::DeadLetter))
    }

    /// The message as it was before [`DeadLetterProducer::send`], to be sent again. None: it was truncated.
    #[must_use]
    pub fn original(letter: &Message) -> Option<Message> {
        let mut original = letter.clone();
        if let Some(first) = letter.headers.iter().rposition(|(key, _)| key == REASON) {
            let own = original.headers.split_off(first);
            if own.iter().any(|(key, _)| key == ORIGINAL_BYTES) {
                return None;
            }
        }
        Some(original)
    }

    /// The short name of the reason. Another value, which another program has written, is left out: it could be
    /// long, or contain control characters of a terminal.
    #[must_use]
    pub fn reason(letter: &Message) -> &str {
        let is_name = |reason: &&[u8]| {
            (1..=MAX_REASON_BYTES).contains(&reason.len())
                && reason.iter().all(|byte| byte.is_ascii_lowercase() || *byte == b'_')
        };
        let reason = letter.header(REASON).filter(is_name);
        reason.and_then(|reason| str::from_utf8(reason).ok()).unwrap_or(UNKNOWN_REASON)
    }

    /// Fails if no broker responds within `timeout`, or if the topic or its dead-letter topic does not exist.
    pub async fn ping(&self, timeout: Duration) -> Result<(), KafkaError> {
        for topic in [&self.source, &self.topic] {
            self.inner.partition_count(topic, timeout).await?;
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
            (REASON, reason),
            ("detail", detail),
            ("source-topic", &self.source),
            ("source-partition", &partition),
            ("source-offset", &offset),
        ];
        own.into_iter().fold(headers, |headers, (key, value)| headers.insert(Header { key, value: Some(value) }))
    }

    async fn write(&self, key: Option<&[u8]>, payload: &[u8], headers: OwnedHeaders) -> Result<(), RdKafkaError> {
        let deadline = Instant::now() + QUEUE_FULL_TIMEOUT;
        loop {
            let record = OutgoingRecord { partition: None, key, payload: payload.into(), headers: headers.clone() };
            match delivery::send(&self.inner, &self.topic, std::iter::once(record), |_| {}) {
                Ok(delivery) => return delivery.outcome().await,
                Err(ProducerFull) if Instant::now() < deadline => tokio::time::sleep(QUEUE_FULL_PAUSE).await,
                Err(ProducerFull) => return Err(RdKafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)),
            }
        }
    }
}

/// The message within the limits.
fn truncated(message: &Message) -> Message {
    let Message { partition, offset, key, payload, headers } = message;
    let headers = headers.iter().take(MAX_HEADERS).map(|(name, value)| {
        let value = value.as_deref().map(|value| prefix(value, MAX_FIELD_BYTES));
        (ellipsized(name, MAX_FIELD_BYTES).into_owned(), value)
    });
    Message {
        partition: *partition,
        offset: *offset,
        key: key.as_deref().map(|key| prefix(key, MAX_FIELD_BYTES)),
        payload: prefix(payload, MAX_VALUE_BYTES),
        headers: headers.collect(),
    }
}

fn prefix(bytes: &[u8], length: usize) -> Vec<u8> {
    bytes[..bytes.len().min(length)].to_vec()
}

/// The text, or as much of it as fits into `length` bytes with an ellipsis after it.
fn ellipsized(text: &str, length: usize) -> Cow<'_, str> {
    if text.len() <= length {
        return text.into();
    }
    format!("{}…", &text[..text.floor_char_boundary(length)]).into()
}

impl std::fmt::Debug for DeadLetterProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetterProducer").field("topic", &self.topic).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_that_is_not_a_short_name_is_left_out() {
        let letter = |reason: Option<&[u8]>| Message {
            partition: 0,
            offset: 0,
            key: None,
            payload: Vec::new(),
            headers: reason.map(|reason| (REASON.to_owned(), Some(reason.to_vec()))).into_iter().collect(),
        };
        let long = vec![b'a'; 65];
        for other in [None, Some(b"".as_slice()), Some(b"a\x1b[31m\n"), Some(b"\xff"), Some(&long)] {
            assert_eq!(DeadLetterProducer::reason(&letter(other)), "unknown", "{other:?}");
        }
        assert_eq!(DeadLetterProducer::reason(&letter(Some(b"before_record_cutoff"))), "before_record_cutoff");
    }
}
