//! What keeps an event, or the scaling of the issuers, from reaching its desired state.

use couponry_crds::status::reason;

/// Reason and message of a condition that reports a problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blocker {
    /// One of [`reason`].
    pub(crate) reason: &'static str,
    /// What is wrong and what an administrator can do about it: complete sentences.
    pub(crate) message: String,
    pub(crate) issuing: Issuing,
}

/// Whether users of an open event receive coupons in spite of a [`Blocker`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Issuing {
    Continues,
    Suspended,
    /// The operator cannot observe it: for example, it does not reach a server that issuers may reach.
    Unknown,
}

impl Blocker {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        let issuing = match reason {
            reason::REDIS_UNVERIFIED
            | reason::REDIS_REJECTS_COMMANDS
            | reason::WRONG_KEY_TYPE
            | reason::ORPHANED_KEYS
            | reason::DELETING => Issuing::Suspended,
            reason::INVALID_VALUE => Issuing::Unknown,
            _ => Issuing::Continues,
        };
        Self { reason, message: message.into(), issuing }
    }

    /// Reported while a Redis that may have lost data is verified. `progress` is a clause without a full stop.
    pub(crate) fn redis_unverified(progress: &str) -> Self {
        let message = format!(
            "Issuing is suspended while Redis is verified after a restart or failover: {progress}. It resumes \
             automatically."
        );
        Self::new(reason::REDIS_UNVERIFIED, message)
    }
}
