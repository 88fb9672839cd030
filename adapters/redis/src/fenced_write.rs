//! Results of conditional writes.

/// The result of a write that carries the uid, the stock epoch and, where it matters, the replication id and the
/// recovery id of the event that its caller has observed. The script compares them before it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FencedWrite<T> {
    /// The identifiers matched. The value is the reply of the script, which may have found nothing to write.
    Applied(T),
    /// The event is unknown, an identifier has changed since, or this Redis is not verified. Nothing was written.
    Stale,
}

impl<T> From<Option<T>> for FencedWrite<T> {
    fn from(reply: Option<T>) -> Self {
        reply.map_or(Self::Stale, Self::Applied)
    }
}
