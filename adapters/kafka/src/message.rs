//! A message of a topic.

use std::panic::{self, AssertUnwindSafe};

use couponry_domain::record::{INSTALLATION_HEADER, VERSION_HEADER};
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Headers as _, Message as _};

/// A message of a topic. Its content is untrusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its partition.
    pub partition: i32,
    /// Its offset in the partition.
    pub offset: i64,
    /// The userId, if it is an issued record.
    pub key: Option<Vec<u8>>,
    /// The value; empty if there is none.
    pub payload: Vec<u8>,
    /// All headers in order. A name may occur more than once.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Message {
    /// The value of the last header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().rev().find(|(key, _)| key == name).and_then(|(_, value)| value.as_deref())
    }

    /// The schema version, as [`couponry_domain::IssuedRecord::decode`] expects it.
    #[must_use]
    pub fn version(&self) -> Option<&[u8]> {
        self.header(VERSION_HEADER)
    }

    /// The id of the installation that sent the record. None: the header is missing.
    #[must_use]
    pub fn installation(&self) -> Option<&[u8]> {
        self.header(INSTALLATION_HEADER)
    }
}

impl From<&BorrowedMessage<'_>> for Message {
    fn from(message: &BorrowedMessage<'_>) -> Self {
        Self {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().unwrap_or_default().to_vec(),
            headers: message.headers().map_or_else(Vec::new, decodable),
        }
    }
}

/// The headers whose names are valid UTF-8. rdkafka panics at any other name, and a consumer that ended there would end
/// at the same message after every restart.
fn decodable(headers: &BorrowedHeaders) -> Vec<(String, Option<Vec<u8>>)> {
    let read = |index| {
        let header = headers.try_get(index)?;
        Some((header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
    };
    (0..headers.count())
        .filter_map(|index| panic::catch_unwind(AssertUnwindSafe(|| read(index))).ok().flatten())
        .collect()
}
