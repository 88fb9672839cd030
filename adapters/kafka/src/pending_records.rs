//! The delivery reports of records that were queued together.

use std::sync::{Arc, OnceLock};

use rdkafka::{
    ClientContext, config::RDKafkaLogLevel, error::KafkaError as RdKafkaError, message::DeliveryResult,
    producer::ProducerContext,
};
use tokio::sync::oneshot;

use crate::client_log::ClientLog;

/// Records that were queued together. Each has a reference, which librdkafka returns with its delivery report; the last
/// one sends the result. A future for each record would cost more than the rest of sending it.
///
/// librdkafka does not return the reference of a record without a report, so no result is sent for it.
pub(crate) struct PendingRecords {
    /// The first failure.
    failure: OnceLock<RdKafkaError>,
    /// None after the result was sent.
    result: Option<oneshot::Sender<Result<(), RdKafkaError>>>,
}

impl PendingRecords {
    pub(crate) fn new() -> (Arc<Self>, oneshot::Receiver<Result<(), RdKafkaError>>) {
        let (sender, receiver) = oneshot::channel();
        (Arc::new(Self { failure: OnceLock::new(), result: Some(sender) }), receiver)
    }

    /// Notes that a record has failed.
    pub(crate) fn fail(&self, cause: RdKafkaError) {
        let _ = self.failure.set(cause);
    }
}

impl Drop for PendingRecords {
    fn drop(&mut self) {
        if let Some(result) = self.result.take() {
            // It fails if the delivery was dropped.
            let _ = result.send(self.failure.take().map_or(Ok(()), Err));
        }
    }
}

/// Receives the delivery reports of librdkafka.
pub(crate) struct DeliveryReports(pub(crate) ClientLog);

impl ClientContext for DeliveryReports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn error(&self, error: RdKafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for DeliveryReports {
    type DeliveryOpaque = Arc<PendingRecords>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Arc<PendingRecords>) {
        if let Err((cause, _)) = result {
            pending.fail(cause.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_is_available_after_the_last_record_and_has_the_first_failure() {
        let (pending, mut result) = PendingRecords::new();
        let [first, second] = [pending.clone(), pending.clone()];
        drop(pending);
        first.fail(RdKafkaError::Canceled);
        drop(first);
        assert!(result.try_recv().is_err());
        second.fail(RdKafkaError::NoMessageReceived);
        drop(second);
        assert_eq!(result.try_recv().unwrap(), Err(RdKafkaError::Canceled));

        let (pending, mut result) = PendingRecords::new();
        drop(pending);
        assert_eq!(result.try_recv().unwrap(), Ok(()));
    }
}
