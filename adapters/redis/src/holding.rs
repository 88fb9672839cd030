//! The value of `couponIssued`: what a user holds.

use couponry_domain::{Discount, EventName, IssuedRecord, UserId, Uuid, code::CouponCode};

use crate::connection::StockError;

/// How far the database is with an issued coupon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// On its way: `PENDING`.
    Pending,
    /// Recorded: `COMPLETED`.
    Completed,
    /// Can never be recorded, the user holds nothing: `CANCEL`.
    Cancelled,
}

impl Status {
    const ALL: [Self; 3] = [Self::Pending, Self::Completed, Self::Cancelled];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Completed => "COMPLETED",
            Self::Cancelled => "CANCEL",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

/// A coupon in a user's hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The coupon's code.
    pub coupon: CouponCode,
    /// What it is worth.
    pub discount: Discount,
    /// When Redis gave it, in milliseconds since the Unix epoch.
    pub issued_at: i64,
    /// How far the database is with it.
    pub status: Status,
}

impl Holding {
    /// The text of an entry: an item of the stock, when it was given, and the status. The scripts take it apart at its colons.
    pub(crate) fn to_entry(&self) -> String {
        let Self { coupon, discount, issued_at, status } = self;
        format!("{coupon}:{discount}:{issued_at}:{}", status.as_str())
    }

    pub(crate) fn from_entry(operation: &'static str, entry: &str) -> Result<Self, StockError> {
        parse_entry(entry).ok_or_else(|| unreadable(operation, entry))
    }

    /// A new holding, from an item of the stock.
    pub(crate) fn from_item(operation: &'static str, item: &str, issued_at: i64) -> Result<Self, StockError> {
        let (coupon, discount) = parse_item(item).ok_or_else(|| unreadable(operation, item))?;
        Ok(Self { coupon, discount, issued_at, status: Status::Pending })
    }

    /// The record of this holding, for Kafka.
    #[must_use]
    pub fn record(&self, event: &EventName, uid: Uuid, user: &UserId) -> IssuedRecord {
        IssuedRecord {
            event_id: event.clone(),
            event_uid: uid,
            user_id: user.clone(),
            coupon: self.coupon.clone(),
            discount: self.discount,
            issued_at: self.issued_at,
        }
    }
}

/// The text of the records of an outbox entry: userId and entry of each, a line for each of both. There is no line break in either.
pub(crate) fn to_records(held: &[(UserId, Holding)]) -> String {
    held.iter().flat_map(|(user, holding)| [user.to_string(), holding.to_entry()]).collect::<Vec<_>>().join("\n")
}

/// Reads the records of an outbox entry.
pub(crate) fn parse_records(operation: &'static str, records: &str) -> Result<Vec<(UserId, Holding)>, StockError> {
    let mut lines = records.split('\n');
    let mut all = Vec::new();
    while let Some(user) = lines.next() {
        let user = user.parse().map_err(|_| unreadable(operation, records))?;
        let entry = lines.next().ok_or_else(|| unreadable(operation, records))?;
        all.push((user, Holding::from_entry(operation, entry)?));
    }
    Ok(all)
}

fn parse_entry(entry: &str) -> Option<Holding> {
    let (rest, status) = entry.rsplit_once(':')?;
    let (item, issued_at) = rest.rsplit_once(':')?;
    let (coupon, discount) = parse_item(item)?;
    Some(Holding { coupon, discount, issued_at: issued_at.parse().ok()?, status: Status::from_name(status)? })
}

/// Reads an item of the stock, `couponKey:TYPE:value`.
pub(crate) fn parse_item(item: &str) -> Option<(CouponCode, Discount)> {
    let mut parts = item.split(':');
    let coupon = parts.next()?.parse().ok()?;
    let kind = parts.next()?.parse().ok()?;
    let value = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some((coupon, Discount { kind, value }))
}

pub(crate) fn parse_uid(operation: &'static str, uid: &str) -> Result<Uuid, StockError> {
    uid.parse().map_err(|_| unreadable(operation, uid))
}

pub(crate) fn unreadable(operation: &'static str, what: &str) -> StockError {
    StockError::Unreadable { operation, what: format!("{what:?}") }
}

/// Reads a text as everything that Redis holds for us: for the fuzzer.
///
/// # Panics
/// When what can be read comes out otherwise than it went in.
#[cfg(any(test, fuzzing))]
pub fn read_stored(text: &str) {
    if let Some(holding) = parse_entry(text) {
        assert_eq!(parse_entry(&holding.to_entry()), Some(holding));
    }
    if let Ok(records) = parse_records("fuzz", text) {
        assert_eq!(parse_records("fuzz", &to_records(&records)).expect("our own records"), records);
    }
    if let Some((coupon, discount)) = parse_item(text) {
        assert_eq!(parse_item(&format!("{coupon}:{discount}")), Some((coupon, discount)));
    }
    if let Ok(uid) = parse_uid("fuzz", text) {
        assert_eq!(parse_uid("fuzz", &uid.to_string()).expect("our own uid"), uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_written_as_the_scripts_expect_it() {
        let holding = Holding::from_item("test", "SUMMER-7GK2M9QXW4TB:PERCENT:10", 5).unwrap();
        let entry = holding.to_entry();
        assert_eq!(entry, "SUMMER-7GK2M9QXW4TB:PERCENT:10:5:PENDING");
        assert_eq!(Holding::from_entry("test", &entry).unwrap(), holding);
    }

    #[test]
    fn what_we_did_not_write_is_named() {
        for item in ["", "A", "A:PERCENT", "A:HALF:10", "A:PERCENT:x", "A:PERCENT:10:", "a:PERCENT:10"] {
            assert!(Holding::from_item("issue", item, 0).is_err(), "{item}");
        }
        for entry in [
            "",
            "A:PERCENT:10",
            "A:PERCENT:10:5",
            "A:PERCENT:10:5:LOST",
            "A:PERCENT:10:x:PENDING",
            "A:PERCENT:10:5:PENDING:",
        ] {
            assert!(Holding::from_entry("issue", entry).is_err(), "{entry}");
        }
        for records in ["", "u1", "u1\n", "u1\nA:PERCENT:10:5:PENDING\n", "\nA:PERCENT:10:5:PENDING"] {
            assert!(parse_records("read", records).is_err(), "{records:?}");
        }
        let error = Holding::from_entry("issue", "{}").unwrap_err().to_string();
        assert_eq!(error, r#"issue: Redis holds "{}""#);
    }

    #[test]
    fn nothing_breaks_on_the_seeds_of_the_fuzzer() {
        for seed in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/stored")).unwrap() {
            read_stored(&String::from_utf8_lossy(&std::fs::read(seed.unwrap().path()).unwrap()));
        }
    }
}
