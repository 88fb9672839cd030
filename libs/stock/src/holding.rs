//! The value of `couponIssued`: what a user holds.

use domain::{Discount, DiscountType, EventId, IssuedRecord, UserId, Uuid, code::CouponCode};
use serde::{Deserialize, Serialize};

use crate::connection::StockError;

/// How far the database is with an issued coupon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// On its way.
    #[serde(rename = "PENDING")]
    Pending,
    /// Recorded.
    #[serde(rename = "COMPLETED")]
    Completed,
    /// Can never be recorded: the user holds nothing.
    #[serde(rename = "CANCEL")]
    Cancelled,
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

/// The JSON of an entry. The scripts take it apart by its beginning and its end: the order of the fields is part of it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    coupon_key: String,
    user_id: UserId,
    discount_type: DiscountType,
    discount_amount: u32,
    issued_at: i64,
    #[serde(default = "pending")]
    status: Status,
}

const fn pending() -> Status {
    Status::Pending
}

impl Holding {
    pub(crate) fn to_entry(&self, user: &UserId) -> String {
        serde_json::to_string(&Fields {
            coupon_key: self.coupon.as_str().to_owned(),
            user_id: user.clone(),
            discount_type: self.discount.kind,
            discount_amount: self.discount.value,
            issued_at: self.issued_at,
            status: self.status,
        })
        .expect("an entry is plain JSON")
    }

    pub(crate) fn from_entry(operation: &'static str, entry: &str) -> Result<Self, StockError> {
        Ok(split(operation, serde_json::from_str(entry).ok(), entry)?.1)
    }

    /// A new holding, from an item of the stock.
    pub(crate) fn from_item(operation: &'static str, item: &str, issued_at: i64) -> Result<Self, StockError> {
        let (coupon, discount) = parse_item(item).ok_or_else(|| unreadable(operation, item))?;
        Ok(Self { coupon, discount, issued_at, status: Status::Pending })
    }

    /// The record of this holding, for Kafka.
    #[must_use]
    pub fn record(&self, event: &EventId, uid: Uuid, user: &UserId) -> IssuedRecord {
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

/// Reads the records of an outbox entry: a JSON array of entries without status.
pub(crate) fn parse_records(operation: &'static str, json: &str) -> Result<Vec<(UserId, Holding)>, StockError> {
    let all: Vec<Fields> = serde_json::from_str(json).map_err(|_| unreadable(operation, json))?;
    all.into_iter().map(|fields| split(operation, Some(fields), json)).collect()
}

fn split(operation: &'static str, fields: Option<Fields>, text: &str) -> Result<(UserId, Holding), StockError> {
    let Fields { coupon_key, user_id, discount_type, discount_amount, issued_at, status } =
        fields.ok_or_else(|| unreadable(operation, text))?;
    let coupon = coupon_key.parse().map_err(|_| unreadable(operation, text))?;
    let discount = Discount { kind: discount_type, value: discount_amount };
    Ok((user_id, Holding { coupon, discount, issued_at, status }))
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
    let same = |user: UserId, holding: Holding| {
        let entry = holding.to_entry(&user);
        let again = split("fuzz", serde_json::from_str(&entry).ok(), &entry);
        assert_eq!(again.expect("our own entry"), (user, holding));
    };
    if let Ok((user, holding)) = split("fuzz", serde_json::from_str(text).ok(), text) {
        same(user, holding);
    }
    for (user, holding) in parse_records("fuzz", text).unwrap_or_default() {
        same(user, holding);
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
        let user = "u\"1".parse().unwrap();
        let entry = holding.to_entry(&user);
        assert_eq!(
            entry,
            concat!(
                r#"{"couponKey":"SUMMER-7GK2M9QXW4TB","userId":"u\"1","discountType":"PERCENT","discountAmount":10,"#,
                r#""issuedAt":5,"status":"PENDING"}"#
            )
        );
        assert_eq!(Holding::from_entry("test", &entry).unwrap(), holding);
    }

    #[test]
    fn what_we_did_not_write_is_named() {
        for item in ["", "A", "A:PERCENT", "A:HALF:10", "A:PERCENT:x", "A:PERCENT:10:", "a:PERCENT:10"] {
            assert!(Holding::from_item("issue", item, 0).is_err(), "{item}");
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
