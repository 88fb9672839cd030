//! The history of a checkout: one [`UseAttempt`] for each HTTP request. The file has a line of JSON before a request is
//! sent (a [`UseInvocation`]) and one when it ends (a [`UseCompletion`]).
//!
//! An invocation without a completion has an unknown outcome: the load generator was killed.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use couponry_domain::UserId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::history::read_lines;

/// A change of a coupon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Operation {
    /// Reserve the coupon, or renew the reservation.
    Reserve,
    /// Redeem it.
    Redeem,
    /// Release the reservation.
    Release,
}

impl Operation {
    /// The name in the path of the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reserve => "reserve",
            Self::Redeem => "redeem",
            Self::Release => "release",
        }
    }

    /// The kind of the entry that it adds to the history of the coupon.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Reserve => "RESERVED",
            Self::Redeem => "REDEEMED",
            Self::Release => "RELEASED",
        }
    }
}

/// A request to change a coupon. Every attempt has the same idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UseCall {
    /// The idempotency key.
    pub key: String,
    /// The change.
    pub operation: Operation,
    /// The coupon.
    pub coupon: String,
    /// Its holder.
    pub user: UserId,
    /// The order.
    pub order: String,
    /// The duration of a reservation, if it is not the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
}

/// What the shop knows about an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UseOutcome {
    /// The redeemer has decided: the coupon was changed (status 200), or nothing was changed (4xx).
    Decided {
        /// The HTTP status.
        status: u16,
        /// The body.
        body: Value,
    },
    /// The coupon may have been changed or not. The text is the error or the response.
    Unknown(String),
}

/// An HTTP request that is about to be sent. Times are in microseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UseInvocation {
    /// Unique in this history.
    pub id: u64,
    /// When it was sent.
    pub invoked: i64,
    /// The redeemer.
    pub target: String,
    /// The request.
    pub call: UseCall,
}

/// The end of an HTTP request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UseCompletion {
    /// The id of the invocation.
    pub id: u64,
    /// When the outcome was known.
    pub finished: i64,
    /// The outcome.
    pub outcome: UseOutcome,
}

/// A line of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum UseEntry {
    /// A request is about to be sent.
    Invoked(UseInvocation),
    /// A request has ended.
    Completed(UseCompletion),
}

/// An HTTP request and its outcome. All times of a history are from one monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UseAttempt {
    /// When it was sent.
    pub invoked: i64,
    /// When the outcome was known.
    pub finished: i64,
    /// The redeemer.
    pub target: String,
    /// The request.
    pub call: UseCall,
    /// The outcome.
    pub outcome: UseOutcome,
}

impl UseAttempt {
    /// The status and the body, if the redeemer has decided.
    #[must_use]
    pub fn decided(&self) -> Option<(u16, &Value)> {
        match &self.outcome {
            UseOutcome::Decided { status, body } => Some((*status, body)),
            UseOutcome::Unknown(_) => None,
        }
    }

    /// The body of the response, if the coupon was changed.
    #[must_use]
    pub fn changed(&self) -> Option<&Value> {
        self.decided().filter(|(status, _)| *status == 200).map(|(_, body)| body)
    }

    /// The status and the last part of the type of the problem, if nothing was changed.
    #[must_use]
    pub fn refused(&self) -> Option<(u16, &str)> {
        let (status, body) = self.decided().filter(|(status, _)| *status != 200)?;
        Some((status, problem(body)))
    }
}

/// The last part of the type of a problem.
#[must_use]
pub fn problem(body: &Value) -> &str {
    body["type"].as_str().and_then(|text| text.rsplit('/').next()).unwrap_or_default()
}

/// Reads a history.
pub fn read(path: &Path) -> Result<Vec<UseAttempt>> {
    let (mut open, mut attempts) = (HashMap::new(), Vec::new());
    read_lines(path, |entry| {
        match entry {
            UseEntry::Invoked(invocation) => {
                open.insert(invocation.id, invocation);
            }
            UseEntry::Completed(UseCompletion { id, finished, outcome }) => {
                let UseInvocation { id: _, invoked, target, call } = open.remove(&id).context("no invocation")?;
                attempts.push(UseAttempt { invoked, finished, target, call, outcome });
            }
        }
        Ok(())
    })?;
    attempts.extend(open.into_values().map(|UseInvocation { id: _, invoked, target, call }| {
        let outcome = UseOutcome::Unknown("the history has no completion".to_owned());
        UseAttempt { invoked, finished: i64::MAX, target, call, outcome }
    }));
    Ok(attempts)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use serde_json::json;

    use super::*;
    use crate::history::write;

    fn invocation(id: u64) -> UseInvocation {
        let call = UseCall {
            key: format!("key-{id}"),
            operation: Operation::Reserve,
            coupon: "S-1".into(),
            user: "u1".parse().unwrap(),
            order: "order-1".into(),
            ttl_seconds: Some(1),
        };
        UseInvocation { id, invoked: 1, target: "http://127.0.0.1:1".into(), call }
    }

    #[test]
    fn history_read_from_file_has_all_attempts() {
        let path = std::env::temp_dir().join(format!("loadgen-uses-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        let body = json!({"type": "https://couponry.dev/problems/coupon-reserved"});
        let outcomes = [UseOutcome::Unknown("timeout".into()), UseOutcome::Decided { status: 409, body }];
        (0..3).for_each(|id| write(&file, &UseEntry::Invoked(invocation(id))).unwrap());
        for (id, outcome) in (0..2).zip(outcomes) {
            write(&file, &UseEntry::Completed(UseCompletion { id, finished: 2, outcome })).unwrap();
        }
        let attempts = read(&path).unwrap();
        let keys: Vec<_> = attempts.iter().map(|attempt| attempt.call.key.as_str()).collect();
        assert_eq!(keys, ["key-0", "key-1", "key-2"]);
        assert_eq!(attempts[0].decided(), None);
        assert_eq!((attempts[1].changed(), attempts[1].refused()), (None, Some((409, "coupon-reserved"))));
        assert_eq!((attempts[2].decided(), attempts[2].finished), (None, i64::MAX));
        std::fs::write(&path, "{}\n").unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("line 1"));
        std::fs::remove_file(&path).unwrap();
    }
}
