//! The coupons that users have received, from the history of their requests.

use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::PathBuf;
use std::str;

use anyhow::{Context, Result};
use couponry_domain::UserId;
use jiff::Timestamp;

use crate::history::{Entry, Pairing};

/// A coupon that was returned to a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldCoupon {
    /// Its place among all received coupons, from 0.
    pub number: u64,
    /// The user.
    pub user: UserId,
    /// The coupon.
    pub coupon: String,
    /// From when on it can no longer be used.
    pub valid_until: Option<Timestamp>,
}

/// Reads a history that may be written at the same time.
#[derive(Debug)]
pub struct IssuedCoupons {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a line whose end is not written yet.
    unread: Vec<u8>,
    pairing: Pairing,
    users: HashSet<UserId>,
}

impl IssuedCoupons {
    /// Opens the file on first use.
    #[must_use]
    pub fn open(path: PathBuf) -> Self {
        Self { path, file: None, unread: Vec::new(), pairing: Pairing::default(), users: HashSet::new() }
    }

    /// The coupons that users have received since the last call: the first response to each user. None if there is no
    /// such file yet.
    pub fn read(&mut self) -> Result<Option<Vec<HeldCoupon>>> {
        let failed = || format!("cannot read the history {}", self.path.display());
        if self.file.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error).with_context(failed),
            }
        }
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut self.unread).with_context(failed)?;
        }
        let complete = self.unread.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.unread.drain(..complete).collect();
        let mut coupons = Vec::new();
        for line in str::from_utf8(&lines).with_context(failed)?.lines() {
            let entry: Entry = serde_json::from_str(line).with_context(failed)?;
            let Some(attempt) = self.pairing.add(entry) else { continue };
            let Some((coupon, _)) = attempt.coupon() else { continue };
            let valid_until = attempt.response().and_then(|response| response.valid_until);
            let number = self.users.len() as u64;
            if self.users.insert(attempt.user.clone()) {
                coupons.push(HeldCoupon { number, user: attempt.user, coupon: coupon.to_string(), valid_until });
            }
        }
        Ok(Some(coupons))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn coupons_are_read_while_the_history_is_written() {
        let path = std::env::temp_dir().join(format!("loadgen-issued-{}", std::process::id()));
        let mut issued = IssuedCoupons::open(path.clone());
        assert_eq!(issued.read().unwrap(), None);
        let mut file = File::create(&path).unwrap();
        let lines = |id: u64, user: &str, coupon: &str| {
            let response =
                format!(r#""success":true,"couponKey":"{coupon}","discountType":"PERCENT","discountAmount":1"#);
            format!(
                "{{\"id\":{id},\"invoked\":1,\"user\":\"{user}\",\"request\":1,\"attempt\":1,\"target\":\"t\"}}\n\
                 {{\"id\":{id},\"finished\":2,\"outcome\":{{\"answered\":{{{response}}}}}}}\n"
            )
        };
        let coupons = |issued: &mut IssuedCoupons| {
            let coupons = issued.read().unwrap().unwrap().into_iter();
            coupons.map(|held| (held.number, format!("{} {}", held.user, held.coupon))).collect::<Vec<_>>()
        };
        assert_eq!(coupons(&mut issued), []);
        let text = lines(0, "u1", "A-1") + &lines(1, "u1", "A-1") + &lines(2, "u2", "A-2");
        let (first, rest) = text.split_at(text.len() - 5);
        file.write_all(first.as_bytes()).unwrap();
        assert_eq!(coupons(&mut issued), [(0, "u1 A-1".to_owned())]);
        file.write_all(rest.as_bytes()).unwrap();
        assert_eq!(coupons(&mut issued), [(1, "u2 A-2".to_owned())]);
        assert_eq!(coupons(&mut issued), []);
        std::fs::remove_file(&path).unwrap();
    }
}
