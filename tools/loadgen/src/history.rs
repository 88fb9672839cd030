//! What was asked and what came back: for each HTTP request an [`Invocation`], written before it is sent, and an [`End`]. Both
//! are lines of JSON in a file, and together an [`Attempt`].
//!
//! An attempt has one of three ends. It was *answered*; it was *refused*, so nothing happened; or its outcome is
//! *unknown*: the request may or may not have reached Redis. The checker holds the system to the first, to the second,
//! and lets the third be either. An invocation without an end is unknown as well: whoever asked was killed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use couponry_domain::code::CouponCode;
use couponry_domain::{Discount, DiscountType, UserId};
use serde::{Deserialize, Serialize};

/// A request that is about to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Invocation {
    /// Its number, of its own in this history.
    pub id: u64,
    /// When it is sent, in microseconds since the Unix epoch.
    pub invoked: i64,
    /// Who asks.
    pub user: UserId,
    /// Whether the user asks for the first, second or third time.
    pub ask: u8,
    /// Which attempt at this ask it is, from 1.
    pub attempt: u32,
    /// Which issuer is asked.
    pub target: String,
}

/// The end of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// The number of the request.
    pub id: u64,
    /// When it was known, in microseconds since the Unix epoch.
    pub finished: i64,
    /// What is known.
    pub outcome: Outcome,
}

/// A line of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Entry {
    /// It is about to be sent.
    Invoked(Invocation),
    /// It has ended.
    Ended(End),
}

/// One request and its end. All attempts of a run are timed by one clock that does not jump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// When it was sent, in microseconds since the Unix epoch.
    pub invoked: i64,
    /// When its end was known, in microseconds since the Unix epoch.
    pub finished: i64,
    /// Who asked.
    pub user: UserId,
    /// Whether the user asks for the first, second or third time.
    pub ask: u8,
    /// Which attempt at this ask it is, from 1.
    pub attempt: u32,
    /// Which issuer was asked.
    pub target: String,
    /// How it ended.
    pub outcome: Outcome,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The issuer answered: this holds from now on.
    Ok(Answer),
    /// Certainly nothing happened: it was never sent, or turned away as a bad request.
    Refused(Problem),
    /// It may have happened or not.
    Unknown(Problem),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// In words.
    pub why: String,
    /// The HTTP status, when one came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// The body of a 200 of `POST /coupons/issue`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Whether this request got the coupon.
    pub success: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The user's coupon, now or from before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coupon_key: Option<String>,
    /// For people. No history keeps it.
    #[serde(skip_serializing)]
    pub message: Option<String>,
    /// What kind of discount the coupon gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discount_type: Option<DiscountType>,
    /// How much of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discount_amount: Option<u32>,
}

/// Why an answer is no success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// The user had a coupon already.
    Duplicate,
    /// No coupon is left.
    SoldOut,
    /// Before the window.
    NotStarted,
    /// After the window.
    Ended,
    /// Held by the manifest.
    Paused,
}

impl Answer {
    /// The coupon that the answer gives the user, if it gives one; an error says how it contradicts itself.
    pub fn coupon(&self) -> Result<Option<(CouponCode, Discount)>, &'static str> {
        let coupon = match (&self.coupon_key, self.discount_type, self.discount_amount) {
            (None, None, None) => None,
            (Some(key), Some(kind), Some(value)) => {
                let code = key.parse().map_err(|_| "couponKey is no coupon code")?;
                Some((code, Discount { kind, value }))
            }
            _ => return Err("couponKey, discountType and discountAmount come together or not at all"),
        };
        match (self.success, self.reason, &coupon) {
            (true, None, Some(_)) | (false, Some(Reason::Duplicate), Some(_)) => Ok(coupon),
            (true, Some(_), _) => Err("a success has no reason"),
            (true, None, None) => Err("a success has a coupon"),
            (false, Some(Reason::Duplicate), None) => Err("DUPLICATE comes with the user's coupon"),
            (false, None, _) => Err("no success, and no reason"),
            (false, Some(_), Some(_)) => Err("only a success and DUPLICATE have a coupon"),
            (false, Some(_), None) => Ok(None),
        }
    }
}

impl Attempt {
    /// The answer, when there is one.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Ok(answer) => Some(answer),
            Outcome::Refused(_) | Outcome::Unknown(_) => None,
        }
    }

    /// The coupon that this attempt's answer names.
    #[must_use]
    pub fn coupon(&self) -> Option<(CouponCode, Discount)> {
        self.answer().and_then(|answer| answer.coupon().ok().flatten())
    }
}

/// Puts invocations and their ends together.
#[derive(Debug, Default)]
pub struct Pairing {
    open: HashMap<u64, Invocation>,
}

impl Pairing {
    /// Takes the next line: with an end, the attempt is whole. An end that nothing began is passed over.
    pub fn take(&mut self, entry: Entry) -> Option<Attempt> {
        match entry {
            Entry::Invoked(invocation) => {
                self.open.insert(invocation.id, invocation);
                None
            }
            Entry::Ended(End { id, finished, outcome }) => Some(whole(self.open.remove(&id)?, finished, outcome)),
        }
    }

    /// The attempts whose end was never written.
    pub fn unended(self) -> impl Iterator<Item = Attempt> {
        self.open.into_values().map(|invocation| {
            let finished = invocation.invoked;
            let why = "the history has no end of it".to_owned();
            whole(invocation, finished, Outcome::Unknown(Problem { why, status: None }))
        })
    }
}

fn whole(invocation: Invocation, finished: i64, outcome: Outcome) -> Attempt {
    let Invocation { id: _, invoked, user, ask, attempt, target } = invocation;
    Attempt { invoked, finished, user, ask, attempt, target, outcome }
}

/// Writes one line, which survives us from then on.
pub fn write(mut file: &File, entry: &Entry) -> Result<()> {
    let mut line = serde_json::to_vec(entry).context("cannot write the history")?;
    line.push(b'\n');
    file.write_all(&line).context("cannot write the history")
}

/// Reads a history. A last line that was cut off is passed over: its writer was killed.
pub fn read(path: &Path) -> Result<Vec<Attempt>> {
    let failed = || format!("cannot read the history {}", path.display());
    let mut file = BufReader::new(File::open(path).with_context(failed)?);
    let mut pairing = Pairing::default();
    let mut attempts = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if file.read_until(b'\n', &mut line).with_context(failed)? == 0 || line.last() != Some(&b'\n') {
            break;
        }
        let entry = serde_json::from_slice(&line).with_context(|| format!("{}, line {number}", failed()))?;
        attempts.extend(pairing.take(entry));
    }
    attempts.extend(pairing.unended());
    ensure!(!attempts.is_empty(), "the history {} has no attempt", path.display());
    Ok(attempts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(json: &str) -> Answer {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn an_answer_that_contradicts_itself_is_found() {
        let problem = |json: &str| answer(json).coupon().unwrap_err();
        let coupon = r#""couponKey":"A-1","discountType":"AMOUNT","discountAmount":5,"message":"x""#;
        let none = r#""couponKey":null,"discountType":null,"discountAmount":null,"message":"x""#;
        assert!(answer(&format!(r#"{{"success":true,"reason":null,{coupon}}}"#)).coupon().unwrap().is_some());
        assert!(answer(&format!(r#"{{"success":false,"reason":"DUPLICATE",{coupon}}}"#)).coupon().unwrap().is_some());
        assert_eq!(answer(&format!(r#"{{"success":false,"reason":"SOLD_OUT",{none}}}"#)).coupon(), Ok(None));
        assert_eq!(problem(&format!(r#"{{"success":true,"reason":null,{none}}}"#)), "a success has a coupon");
        assert_eq!(problem(&format!(r#"{{"success":true,"reason":"ENDED",{coupon}}}"#)), "a success has no reason");
        assert_eq!(problem(&format!(r#"{{"success":false,"reason":null,{none}}}"#)), "no success, and no reason");
        assert!(problem(&format!(r#"{{"success":false,"reason":"DUPLICATE",{none}}}"#)).contains("DUPLICATE"));
        assert!(problem(&format!(r#"{{"success":false,"reason":"PAUSED",{coupon}}}"#)).contains("only a success"));
        assert!(problem(r#"{"success":true,"couponKey":"A-1"}"#).contains("together"));
    }

    fn invocation(id: u64, user: &str) -> Invocation {
        let target = "http://127.0.0.1:1".into();
        Invocation { id, invoked: 1, user: user.parse().unwrap(), ask: 1, attempt: 1, target }
    }

    #[test]
    fn attempts_survive_the_file_and_what_has_no_end_is_unknown() {
        let coupon = r#"{"success":true,"reason":null,"couponKey":"A-1","discountType":"AMOUNT","discountAmount":5}"#;
        let outcomes = [
            Outcome::Ok(answer(coupon)),
            Outcome::Unknown(Problem { why: "no answer".into(), status: None }),
            Outcome::Refused(Problem { why: "unknown event".into(), status: Some(404) }),
        ];
        let invocations = [invocation(0, "u\"1"), invocation(1, "한국어"), invocation(2, "u3")];
        let path = std::env::temp_dir().join(format!("loadgen-history-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        for invocation in &invocations {
            write(&file, &Entry::Invoked(invocation.clone())).unwrap();
        }
        // Not in the order in which they began.
        for (id, outcome) in [0, 1, 2].into_iter().zip(outcomes.clone()).rev() {
            write(&file, &Entry::Ended(End { id, finished: 2, outcome })).unwrap();
        }
        let attempts: Vec<_> = invocations.into_iter().zip(outcomes).map(|(i, o)| whole(i, 2, o)).rev().collect();
        assert_eq!(read(&path).unwrap(), attempts);

        let all = std::fs::read(&path).unwrap();
        std::fs::write(&path, &all[..all.len() - 5]).unwrap();
        let read_again = read(&path).unwrap();
        assert_eq!(read_again[..2], attempts[..2]);
        assert_eq!(read_again[2].user, attempts[2].user);
        assert!(matches!(&read_again[2].outcome, Outcome::Unknown(problem) if problem.why.contains("no end")));
        std::fs::write(&path, "{}\n").unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("line 1"));
        std::fs::write(&path, "").unwrap();
        assert!(read(&path).is_err());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn the_words_for_people_are_not_kept() {
        let told = answer(r#"{"success":false,"reason":"SOLD_OUT","couponKey":null,"message":"so sorry"}"#);
        assert_eq!(serde_json::to_string(&told).unwrap(), r#"{"success":false,"reason":"SOLD_OUT"}"#);
    }
}
