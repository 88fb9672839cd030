//! The delivery reports of records that were queued together.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use rdkafka::{
    ClientContext, config::RDKafkaLogLevel, error::KafkaError as RdKafkaError, message::DeliveryResult,
    producer::ProducerContext,
};
use tokio::sync::oneshot;

use crate::client_log::ClientLog;

/// Counts the deliveries of records that were queued together. A future for each record would cost more than the rest
/// of sending it.
pub(crate) struct PendingRecords {
    left: AtomicUsize,
    outcome: Mutex<Outcome>,
}

struct Outcome {
    /// The first failure.
    failure: Option<RdKafkaError>,
    /// Receives the result when no record is left.
    result: Option<oneshot::Sender<Result<(), RdKafkaError>>>,
}

impl PendingRecords {
    pub(crate) fn new(count: usize) -> (Arc<Self>, oneshot::Receiver<Result<(), RdKafkaError>>) {
        let (sender, receiver) = oneshot::channel();
        let outcome = Mutex::new(Outcome { failure: None, result: Some(sender) });
        let pending = Arc::new(Self { left: AtomicUsize::new(count), outcome });
        if count == 0 {
            pending.complete();
        }
        (pending, receiver)
    }

    /// Notes that a record was delivered, or has failed.
    pub(crate) fn finish(&self, failure: Option<RdKafkaError>) {
        if let Some(failure) = failure {
            self.outcome.lock().unwrap_or_else(PoisonError::into_inner).failure.get_or_insert(failure);
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.complete();
        }
    }

    fn complete(&self) {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let result = outcome.failure.take().map_or(Ok(()), Err);
        if let Some(sender) = outcome.result.take() {
            // It fails if the delivery was dropped.
            let _ = sender.send(result);
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
        pending.finish(result.as_ref().err().map(|(cause, _)| cause.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_is_available_after_the_last_record_and_has_the_first_failure() {
        let (pending, mut result) = PendingRecords::new(3);
        pending.finish(None);
        pending.finish(Some(RdKafkaError::Canceled));
        assert!(result.try_recv().is_err());
        pending.finish(Some(RdKafkaError::NoMessageReceived));
        assert_eq!(result.try_recv().unwrap(), Err(RdKafkaError::Canceled));

        let (pending, mut result) = PendingRecords::new(1);
        pending.finish(None);
        assert_eq!(result.try_recv().unwrap(), Ok(()));
        assert_eq!(PendingRecords::new(0).1.try_recv().unwrap(), Ok(()));
    }
}
