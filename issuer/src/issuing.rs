//! Issues coupons, those of many requests in one call to Redis.

use std::{collections::HashSet, sync::Arc};

use couponry_domain::{Acknowledge, EventName, IssuedRecord, UserId, code::CouponCode};
use couponry_redis::{IssueOutcome, IssueReply, RedisStore};
use couponry_runtime::error_chain;

use crate::{
    event_queues::{BatchProcessor, EventQueues, QueueError, Responses},
    metrics::Metrics,
    recent_events::RecentEvents,
    relay::Relay,
};

/// The result of an issue request.
#[derive(Debug)]
pub(crate) enum IssueResult {
    /// Redis returned an outcome.
    Decided {
        /// The outcome.
        outcome: IssueOutcome,
        /// From when on the coupon of the user is not valid any more. None: the user has no coupon, or it
        /// is valid without limit.
        valid_until: Option<i64>,
    },
    /// The event does not exist.
    UnknownEvent,
    /// A coupon may have been issued. A retry returns the outcome.
    UnknownOutcome,
    /// The queue is full: the request was not processed.
    Overloaded,
}

impl IssueResult {
    /// The label in the metrics.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Decided { outcome, .. } => match outcome {
                IssueOutcome::Issued(_) => "issued",
                IssueOutcome::Duplicate(_) => "duplicate",
                IssueOutcome::Voided => "voided",
                IssueOutcome::SoldOut { .. } => "sold_out",
                IssueOutcome::Wait { .. } => "wait",
                IssueOutcome::NotStarted => "not_started",
                IssueOutcome::Ended => "ended",
                IssueOutcome::Paused => "paused",
                IssueOutcome::Unverified => "unverified",
                IssueOutcome::Undecodable => "undecodable",
            },
            Self::UnknownEvent => "unknown_event",
            Self::UnknownOutcome => "unknown_outcome",
            Self::Overloaded => "overloaded",
        }
    }
}

/// The issue requests that wait for Redis.
pub(crate) struct IssueQueues(EventQueues<Issuing>);

#[derive(Clone)]
struct Issuing {
    redis_store: RedisStore,
    relay: Relay,
    metrics: Metrics,
    recent_events: Arc<RecentEvents>,
}

impl IssueQueues {
    pub(crate) fn new(
        redis_store: RedisStore,
        relay: Relay,
        metrics: Metrics,
        recent_events: Arc<RecentEvents>,
        max_batch: usize,
        max_queued_requests: u32,
    ) -> Self {
        let issuing = Issuing { redis_store, relay, metrics, recent_events };
        Self(EventQueues::new(issuing, max_batch, max_queued_requests))
    }

    /// Issues a coupon to `user`.
    pub(crate) async fn issue(&self, event: &EventName, user: UserId) -> IssueResult {
        match self.0.request(event, user).await {
            Ok(result) => result,
            Err(QueueError::Full) => IssueResult::Overloaded,
            Err(QueueError::Dropped) => IssueResult::UnknownOutcome,
        }
    }
}

impl BatchProcessor for Issuing {
    type Result = IssueResult;

    #[tracing::instrument(level = "debug", skip_all, fields(%event, users = users.len()))]
    async fn process(&self, event: &EventName, users: Vec<UserId>, responses: Responses<IssueResult>) -> Option<bool> {
        #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
        self.metrics.batch_users.observe(users.len() as f64);
        match self.redis_store.issue(event, &users).await {
            Ok(Some(reply)) => {
                couponry_failpoint::crash("issuer.after-lua");
                self.recent_events.note(event);
                self.respond(event, responses, reply);
                Some(true)
            }
            Ok(None) => {
                let may_exist = self.recent_events.may_exist(event, &self.redis_store).await;
                send_all(responses, || {
                    if may_exist {
                        IssueResult::Decided { outcome: IssueOutcome::Unverified, valid_until: None }
                    } else {
                        IssueResult::UnknownEvent
                    }
                });
                Some(self.recent_events.contains(event))
            }
            Err(error) => {
                let error = error_chain(error);
                tracing::warn!(error, %event, count = users.len(), "outcome of a batch is unknown");
                send_all(responses, || IssueResult::UnknownOutcome);
                None
            }
        }
    }
}

impl Issuing {
    fn respond(&self, event: &EventName, responses: Responses<IssueResult>, reply: IssueReply) {
        let IssueReply { event_uid, installation, acknowledge, validity, valid_until, outcomes, outbox } = reply;
        let undecodable = outcomes.iter().filter(|outcome| matches!(outcome, IssueOutcome::Undecodable)).count();
        if undecodable > 0 {
            tracing::error!(%event, count = undecodable, "cannot decode values of couponIssued or couponQueue");
        }
        let issued_count = outcomes.iter().filter(|outcome| matches!(outcome, IssueOutcome::Issued(_))).count();
        self.metrics.count_issued(event, issued_count);
        let valid_until = |outcome: &IssueOutcome| match outcome {
            IssueOutcome::Issued(_) => valid_until,
            IssueOutcome::Duplicate(entry) => {
                validity.as_ref().map(|validity| validity.valid_until(entry.issued.issued_at))
            }
            _ => None,
        };
        if acknowledge == Acknowledge::Redis {
            for (response, outcome) in responses.into_iter().zip(outcomes) {
                let valid_until = valid_until(&outcome);
                let _ = response.send(IssueResult::Decided { outcome, valid_until });
            }
            if let Some(entry) = outbox {
                drop(self.relay.send_entry(event, entry));
            }
            return;
        }
        let valid_until: Vec<_> = outcomes.iter().map(valid_until).collect();
        let issued: HashSet<&CouponCode> = outcomes
            .iter()
            .filter_map(|outcome| if let IssueOutcome::Issued(issued) = outcome { Some(&issued.coupon) } else { None })
            .collect();
        let (confirmations, resent): (Vec<_>, Vec<_>) = outcomes
            .iter()
            .zip(&valid_until)
            .map(|(outcome, &valid_until)| match outcome {
                IssueOutcome::Issued(_) => (Confirmation::Batch, None),
                // A second request of the same user in this batch: its record is in the batch.
                IssueOutcome::Duplicate(entry) if issued.contains(&entry.issued.coupon) => (Confirmation::Batch, None),
                IssueOutcome::Duplicate(entry) if self.relay.must_resend(acknowledge, event_uid, entry) => {
                    let (event_id, issued) = (event.clone(), entry.issued.clone());
                    (Confirmation::Resent, Some(IssuedRecord { event_id, event_uid, issued, valid_until }))
                }
                _ => (Confirmation::NotRequired, None),
            })
            .unzip();
        let sent = outbox.map(|entry| self.relay.send_and_remember(event, entry));
        let resent: Vec<_> = resent.into_iter().flatten().collect();
        let resent = self.relay.resend(&resent, installation);
        tokio::spawn(async move {
            let sent = match sent {
                Some(sent) => sent.await,
                None => Ok(()),
            };
            let resent = resent.await;
            let decided = outcomes.into_iter().zip(valid_until);
            let decided = decided.map(|(outcome, valid_until)| IssueResult::Decided { outcome, valid_until });
            for ((response, decided), confirmation) in responses.into_iter().zip(decided).zip(confirmations) {
                let confirmed = match confirmation {
                    Confirmation::NotRequired => Ok(()),
                    Confirmation::Batch => sent,
                    Confirmation::Resent => resent,
                };
                let _ = response.send(confirmed.map_or(IssueResult::UnknownOutcome, |()| decided));
            }
        });
    }
}

/// Which records Kafka must confirm before the response is sent.
#[derive(Clone, Copy)]
enum Confirmation {
    NotRequired,
    /// The records of this batch.
    Batch,
    /// The record of an earlier batch, which was sent again.
    Resent,
}

fn send_all(responses: Responses<IssueResult>, value: impl Fn() -> IssueResult) {
    for response in responses {
        let _ = response.send(value());
    }
}
