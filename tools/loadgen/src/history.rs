//! What was asked and what came back: one [`Attempt`] per HTTP request, as lines of JSON in a file.
//!
//! An attempt has one of three ends. It was *answered*; it was *refused*, so nothing happened; or its outcome is
//! *unknown*: the request may or may not have reached Redis. The checker holds the system to the first, to the second,
//! and lets the third be either.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use domain::code::CouponCode;
use domain::{Discount, DiscountType, UserId};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// One request and its end. All attempts of a run are timed by one clock that does not jump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
    pub reason: Option<Reason>,
    /// The user's coupon, now or from before.
    pub coupon_key: Option<String>,
    /// For people.
    #[serde(default)]
    pub message: Option<String>,
    /// What kind of discount the coupon gives.
    pub discount_type: Option<DiscountType>,
    /// How much of it.
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

/// Writes the attempts to `file` as they come, until all senders are gone. Each is also shown to `seen`.
///
/// Blocks: it wants a thread of its own. What was received is in the file whenever nothing more waits.
pub fn write(mut attempts: mpsc::Receiver<Attempt>, file: File, mut seen: impl FnMut(&Attempt)) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 16, file);
    let mut next = attempts.blocking_recv();
    while let Some(attempt) = next {
        seen(&attempt);
        serde_json::to_writer(&mut file, &attempt)
            .map_err(std::io::Error::from)
            .and_then(|()| file.write_all(b"\n"))
            .context("cannot write the history")?;
        next = if let Ok(attempt) = attempts.try_recv() {
            Some(attempt)
        } else {
            file.flush().context("cannot write the history")?;
            attempts.blocking_recv()
        };
    }
    Ok(())
}

/// Reads a history. A last line that was cut off is passed over: its writer was killed.
pub fn read(path: &Path) -> Result<Vec<Attempt>> {
    let failed = || format!("cannot read the history {}", path.display());
    let mut file = BufReader::new(File::open(path).with_context(failed)?);
    let mut attempts = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        if file.read_until(b'\n', &mut line).with_context(failed)? == 0 || line.last() != Some(&b'\n') {
            ensure!(!attempts.is_empty(), "the history {} has no attempt", path.display());
            return Ok(attempts);
        }
        let attempt =
            serde_json::from_slice(&line).with_context(|| format!("{}, line {}", failed(), attempts.len() + 1))?;
        attempts.push(attempt);
    }
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

    #[test]
    fn attempts_survive_the_file_and_a_cut_line_is_passed_over() {
        let attempt = |user: &str, outcome| Attempt {
            invoked: 1,
            finished: 2,
            user: user.parse().unwrap(),
            ask: 1,
            attempt: 1,
            target: "http://127.0.0.1:1".into(),
            outcome,
        };
        let coupon = r#"{"success":true,"reason":null,"couponKey":"A-1","message":"m","discountType":"AMOUNT","discountAmount":5}"#;
        let attempts = [
            attempt("u\"1", Outcome::Ok(answer(coupon))),
            attempt("한국어", Outcome::Unknown(Problem { why: "no answer".into(), status: None })),
            attempt("u3", Outcome::Refused(Problem { why: "unknown event".into(), status: Some(404) })),
        ];
        let path = std::env::temp_dir().join(format!("loadgen-history-{}", std::process::id()));
        let (sender, receiver) = mpsc::channel(8);
        for attempt in &attempts {
            sender.try_send(attempt.clone()).unwrap();
        }
        drop(sender);
        let mut seen = 0;
        write(receiver, File::create(&path).unwrap(), |_| seen += 1).unwrap();
        assert_eq!((seen, read(&path).unwrap().as_slice()), (3, attempts.as_slice()));

        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        assert_eq!(read(&path).unwrap(), attempts[..2]);
        std::fs::write(&path, "{}\n").unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("line 1"));
        std::fs::write(&path, "").unwrap();
        assert!(read(&path).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
