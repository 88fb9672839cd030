//! The history of a run: one [`Attempt`] for each HTTP request. The file has a line of JSON before a request is sent
//! (an [`Invocation`]) and one when it ends (a [`Completion`]).
//!
//! An attempt is answered, rejected, or of unknown [`Outcome`], as in Jepsen's histories. An invocation without a
//! completion is unknown too: the load generator was killed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use couponry_domain::code::CouponCode;
use couponry_domain::{Discount, UserId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::outcome::{Failure, IssueResponse, Outcome};

/// An HTTP request that is about to be sent. Times are in microseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Invocation {
    /// Unique in this history.
    pub id: u64,
    /// When it was sent.
    pub invoked: i64,
    /// The user.
    pub user: UserId,
    /// The number of this request of the user, from 1.
    pub request: u8,
    /// The number of the attempt at this request, from 1.
    pub attempt: u32,
    /// The issuer.
    pub target: String,
}

/// The end of an HTTP request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Completion {
    /// The id of the invocation.
    pub id: u64,
    /// When the outcome was known.
    pub finished: i64,
    /// The outcome.
    pub outcome: Outcome,
}

/// A line of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Entry {
    /// A request is about to be sent.
    Invoked(Invocation),
    /// A request has ended.
    Completed(Completion),
}

/// An HTTP request and its outcome. All times of a run are from one monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// When it was sent.
    pub invoked: i64,
    /// When the outcome was known.
    pub finished: i64,
    /// The user.
    pub user: UserId,
    /// The number of this request of the user, from 1.
    pub request: u8,
    /// The number of the attempt at this request, from 1.
    pub attempt: u32,
    /// The issuer.
    pub target: String,
    /// The outcome.
    pub outcome: Outcome,
}

impl Attempt {
    fn new(invocation: Invocation, finished: i64, outcome: Outcome) -> Self {
        let Invocation { id: _, invoked, user, request, attempt, target } = invocation;
        Self { invoked, finished, user, request, attempt, target, outcome }
    }

    /// The response, if there is one.
    #[must_use]
    pub fn response(&self) -> Option<&IssueResponse> {
        match &self.outcome {
            Outcome::Answered(response) => Some(response),
            Outcome::Rejected(_) | Outcome::Unknown(_) => None,
        }
    }

    /// The user's coupon according to the response.
    #[must_use]
    pub fn coupon(&self) -> Option<(CouponCode, Discount)> {
        self.response().and_then(|response| response.coupon().ok().flatten())
    }
}

/// Combines invocations and completions.
#[derive(Debug, Default)]
pub struct Pairing {
    open: HashMap<u64, Invocation>,
}

impl Pairing {
    /// Adds the next entry. Returns the attempt which it completes. A completion without invocation is ignored.
    pub fn add(&mut self, entry: Entry) -> Option<Attempt> {
        match entry {
            Entry::Invoked(invocation) => {
                self.open.insert(invocation.id, invocation);
                None
            }
            Entry::Completed(Completion { id, finished, outcome }) => {
                Some(Attempt::new(self.open.remove(&id)?, finished, outcome))
            }
        }
    }

    /// The attempts without completion.
    pub fn incomplete(self) -> impl Iterator<Item = Attempt> {
        self.open.into_values().map(|invocation| {
            let finished = invocation.invoked;
            let message = "the history has no completion".to_owned();
            Attempt::new(invocation, finished, Outcome::Unknown(Failure { message, status: None }))
        })
    }
}

/// Appends one entry, with one write, so that it is kept if this process is killed.
pub fn write(mut file: &File, entry: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(entry).context("cannot encode an entry of the history")?;
    line.push(b'\n');
    file.write_all(&line).context("cannot write the history")
}

/// Reads a history.
pub fn read(path: &Path) -> Result<Vec<Attempt>> {
    let mut pairing = Pairing::default();
    let mut attempts = Vec::new();
    read_lines(path, |entry| {
        attempts.extend(pairing.add(entry));
        Ok(())
    })?;
    attempts.extend(pairing.incomplete());
    ensure!(!attempts.is_empty(), "the history {} is empty", path.display());
    Ok(attempts)
}

/// Passes each entry of a history to `add`. An incomplete last line is ignored: the load generator was killed.
pub(crate) fn read_lines<T: DeserializeOwned>(path: &Path, mut add: impl FnMut(T) -> Result<()>) -> Result<()> {
    let failed = || format!("cannot read the history {}", path.display());
    let mut file = BufReader::new(File::open(path).with_context(failed)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if file.read_until(b'\n', &mut line).with_context(failed)? == 0 || line.last() != Some(&b'\n') {
            break;
        }
        let added = serde_json::from_slice(&line).map_err(Into::into).and_then(&mut add);
        added.with_context(|| format!("{}, line {number}", failed()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invocation(id: u64, user: &str) -> Invocation {
        let target = "http://127.0.0.1:1".into();
        Invocation { id, invoked: 1, user: user.parse().unwrap(), request: 1, attempt: 1, target }
    }

    #[test]
    fn history_read_from_file_has_all_attempts() {
        let coupon = r#"{"success":true,"reason":null,"couponKey":"A-1","discountType":"AMOUNT","discountAmount":5}"#;
        let outcomes = [
            Outcome::Answered(serde_json::from_str(coupon).unwrap()),
            Outcome::Unknown(Failure { message: "no response".into(), status: None }),
            Outcome::Rejected(Failure { message: "unknown event".into(), status: Some(404) }),
        ];
        let invocations = [invocation(0, "u\"1"), invocation(1, "한국어"), invocation(2, "u3")];
        let path = std::env::temp_dir().join(format!("loadgen-history-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        for invocation in &invocations {
            write(&file, &Entry::Invoked(invocation.clone())).unwrap();
        }
        // The completions are in another order.
        for (id, outcome) in [0, 1, 2].into_iter().zip(outcomes.clone()).rev() {
            write(&file, &Entry::Completed(Completion { id, finished: 2, outcome })).unwrap();
        }
        let attempts: Vec<_> =
            invocations.into_iter().zip(outcomes).map(|(i, o)| Attempt::new(i, 2, o)).rev().collect();
        assert_eq!(read(&path).unwrap(), attempts);

        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        let truncated = read(&path).unwrap();
        assert_eq!(truncated[..2], attempts[..2]);
        assert_eq!(truncated[2].user, attempts[2].user);
        assert!(
            matches!(&truncated[2].outcome, Outcome::Unknown(failure) if failure.message.contains("no completion"))
        );
        std::fs::write(&path, "{}\n").unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("line 1"));
        std::fs::write(&path, "").unwrap();
        assert!(read(&path).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
