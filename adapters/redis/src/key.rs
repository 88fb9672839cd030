//! Names of the Redis keys.

use couponry_domain::EventName;

/// The set of all events, in another hash slot than the keys of the events.
pub(crate) fn events(prefix: &str) -> String {
    format!("{prefix}couponEvents")
}

/// The events whose outbox is swept each second.
pub(crate) fn active_events(prefix: &str) -> String {
    format!("{prefix}couponActiveEvents")
}

/// The lease for reading the outboxes of all events.
pub(crate) fn outbox_walk(prefix: &str) -> String {
    format!("{prefix}couponOutboxWalk")
}

/// The id of the installation that the keys belong to.
pub(crate) fn installation(prefix: &str) -> String {
    format!("{prefix}couponInstallation")
}

/// The set of events whose rows in Postgres are still to be deleted.
pub(crate) fn pending_deletions(prefix: &str) -> String {
    format!("{prefix}couponPendingDeletions")
}

/// The keys of one event. The braces are literal: they make the eventId the hash tag in a Redis Cluster.
pub(crate) struct EventKeys {
    pub(crate) meta: String,
    pub(crate) queue: String,
    pub(crate) issued: String,
    pub(crate) outbox: String,
    pub(crate) sweeper: String,
}

impl EventKeys {
    pub(crate) fn new(prefix: &str, event: &EventName) -> Self {
        let key = |kind: &str| format!("{prefix}coupon{kind}:{{{event}}}");
        Self {
            meta: key("Meta"),
            queue: key("Queue"),
            issued: key("Issued"),
            outbox: key("Outbox"),
            sweeper: key("Sweeper"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_names_match_the_contract() {
        let keys = EventKeys::new("test-", &"summer".parse().unwrap());
        assert_eq!(keys.meta, "test-couponMeta:{summer}");
        assert_eq!(keys.queue, "test-couponQueue:{summer}");
        assert_eq!(keys.issued, "test-couponIssued:{summer}");
        assert_eq!(keys.outbox, "test-couponOutbox:{summer}");
        assert_eq!(events("test-"), "test-couponEvents");
    }
}
