//! A message as it is on the topic.

use domain::record::VERSION_HEADER;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

/// A message as it is on the topic: anything that anyone wrote there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The partition it is in.
    pub partition: i32,
    /// Its place in the partition.
    pub offset: i64,
    /// The userId, in records of ours.
    pub key: Option<Vec<u8>>,
    /// The value; empty also when there is none.
    pub payload: Vec<u8>,
    /// All headers in order. A name may come more than once.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Message {
    /// The value of the last header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().rev().find(|(key, _)| key == name).and_then(|(_, value)| value.as_deref())
    }

    /// The schema version, as [`domain::IssuedRecord::decode`] wants it.
    #[must_use]
    pub fn version(&self) -> Option<&[u8]> {
        self.header(VERSION_HEADER)
    }
}

impl From<&BorrowedMessage<'_>> for Message {
    fn from(message: &BorrowedMessage<'_>) -> Self {
        Self {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().unwrap_or_default().to_vec(),
            headers: message.headers().map_or_else(Vec::new, |headers| {
                headers.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect()
            }),
        }
    }
}
