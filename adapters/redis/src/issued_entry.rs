//! Entries of `couponIssued`: the coupon of each user.

use couponry_domain::{Discount, IssuedCoupon, UserId, Uuid, Validity, code::CouponCode};

use crate::error::{RedisStoreError, invalid_value};

/// Whether an issued coupon is recorded in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssuedStatus {
    /// Not yet known to be recorded: `PENDING`.
    Pending,
    /// Recorded: `COMPLETED`.
    Completed,
    /// Recorded, and voided by an administrator: `VOIDED`. The user does not receive another one.
    Voided,
    /// Can never be recorded; the user has no coupon: `CANCEL`.
    Cancelled,
}

impl IssuedStatus {
    const ALL: [Self; 4] = [Self::Pending, Self::Completed, Self::Voided, Self::Cancelled];

    /// Whether the issuance is known to be recorded.
    #[must_use]
    pub const fn is_recorded(self) -> bool {
        matches!(self, Self::Completed | Self::Voided)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Completed => "COMPLETED",
            Self::Voided => "VOIDED",
            Self::Cancelled => "CANCEL",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

/// An entry of `couponIssued`: an issued coupon and its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedEntry {
    /// The issued coupon.
    pub issued: IssuedCoupon,
    /// Whether it is recorded.
    pub status: IssuedStatus,
}

impl IssuedEntry {
    /// The value of the hash field of its user: a stock item, the time, and the status. The scripts parse it by its
    /// colons.
    pub(crate) fn to_value(&self) -> String {
        let IssuedCoupon { user_id: _, coupon, discount, issued_at } = &self.issued;
        format!("{coupon}:{discount}:{issued_at}:{}", self.status.as_str())
    }

    pub(crate) fn parse(operation: &'static str, user_id: UserId, value: &[u8]) -> Result<Self, RedisStoreError> {
        Self::from_bytes(user_id, value).ok_or_else(|| invalid_value(operation, &String::from_utf8_lossy(value)))
    }

    /// None: this version does not write such a value.
    pub(crate) fn from_bytes(user_id: UserId, value: &[u8]) -> Option<Self> {
        Self::from_value(user_id, str::from_utf8(value).ok()?)
    }

    fn from_value(user_id: UserId, value: &str) -> Option<Self> {
        let (rest, status) = value.rsplit_once(':')?;
        let (item, issued_at) = rest.rsplit_once(':')?;
        let (coupon, discount) = parse_item(item.as_bytes())?;
        let issued = IssuedCoupon { user_id, coupon, discount, issued_at: issued_at.parse().ok()? };
        Some(Self { issued, status: IssuedStatus::from_name(status)? })
    }
}

/// The records of an outbox entry: two lines for each issued coupon, the user id and the value of its entry. Neither
/// contains a line break.
pub(crate) fn to_records(entries: &[IssuedEntry]) -> String {
    let lines = entries.iter().flat_map(|entry| [entry.issued.user_id.to_string(), entry.to_value()]);
    lines.collect::<Vec<_>>().join("\n")
}

/// Parses the records of an outbox entry. Returns also how many of them cannot be decoded.
pub(crate) fn parse_records(records: &[u8]) -> (Vec<IssuedCoupon>, usize) {
    let lines: Vec<&[u8]> = records.split(|byte| *byte == b'\n').collect();
    let decode = |record: &[&[u8]]| match *record {
        [user, value] => IssuedEntry::from_bytes(parse_user(user)?, value),
        _ => None,
    };
    let decoded: Vec<_> = lines.chunks(2).filter_map(decode).map(|entry| entry.issued).collect();
    let undecodable = lines.len().div_ceil(2) - decoded.len();
    (decoded, undecodable)
}

pub(crate) fn parse_user(user: &[u8]) -> Option<UserId> {
    str::from_utf8(user).ok()?.parse().ok()
}

/// Parses an item of the queue, `couponKey:TYPE:value`.
pub(crate) fn parse_item(item: &[u8]) -> Option<(CouponCode, Discount)> {
    let mut parts = str::from_utf8(item).ok()?.split(':');
    let coupon = parts.next()?.parse().ok()?;
    let kind = parts.next()?.parse().ok()?;
    let value = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some((coupon, Discount { kind, value }))
}

pub(crate) fn parse_uid(operation: &'static str, uid: &str) -> Result<Uuid, RedisStoreError> {
    uid.parse().map_err(|_| invalid_value(operation, &format!("uid={uid}")))
}

/// The id of the installation. None: it is missing or not valid.
pub(crate) fn parse_installation(id: Option<String>) -> Option<Uuid> {
    id?.parse().ok()
}

/// The validity of the coupons of an event. None: unlimited, or the event was opened by a version without validity.
pub(crate) fn parse_validity(operation: &'static str, text: Option<&str>) -> Result<Option<Validity>, RedisStoreError> {
    let text = text.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|_| invalid_value(operation, &format!("validity={text}")))).transpose()
}

/// Fuzz target: parses a text as every kind of value that Redis stores.
///
/// # Panics
/// If a parsed value is written differently from how it was read.
#[cfg(any(test, fuzzing))]
pub fn parse_stored_value(text: &str) {
    let user: UserId = "u1".parse().expect("a valid user id");
    if let Some(entry) = IssuedEntry::from_value(user.clone(), text) {
        assert_eq!(IssuedEntry::from_value(user, &entry.to_value()), Some(entry));
    }
    let (records, _) = parse_records(text.as_bytes());
    if !records.is_empty() {
        let entries: Vec<_> = records
            .iter()
            .map(|issued| IssuedEntry { issued: issued.clone(), status: IssuedStatus::Pending })
            .collect();
        assert_eq!(parse_records(to_records(&entries).as_bytes()), (records, 0));
    }
    if let Some((coupon, discount)) = parse_item(text.as_bytes()) {
        assert_eq!(parse_item(format!("{coupon}:{discount}").as_bytes()), Some((coupon, discount)));
    }
    if let Ok(Some(validity)) = parse_validity("fuzz", Some(text)) {
        assert_eq!(validity.to_string().parse(), Ok(validity));
    }
    if let Ok(uid) = parse_uid("fuzz", text) {
        assert_eq!(parse_uid("fuzz", &uid.to_string()).expect("a valid uid"), uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Result<IssuedEntry, RedisStoreError> {
        IssuedEntry::parse("issue", "u1".parse().unwrap(), value.as_bytes())
    }

    #[test]
    fn entry_has_the_format_that_the_scripts_expect() {
        let (coupon, discount) = parse_item(b"SUMMER-7GK2M9QXW4TB:PERCENT:10").unwrap();
        let issued = IssuedCoupon { user_id: "u1".parse().unwrap(), coupon, discount, issued_at: 5 };
        let entry = IssuedEntry { issued, status: IssuedStatus::Pending };
        assert_eq!(entry.to_value(), "SUMMER-7GK2M9QXW4TB:PERCENT:10:5:PENDING");
        for status in IssuedStatus::ALL {
            let entry = IssuedEntry { status, ..entry.clone() };
            assert_eq!(parse(&entry.to_value()).unwrap(), entry);
        }
    }

    #[test]
    fn invalid_value_is_rejected_and_named() {
        for item in ["", "A", "A:PERCENT", "A:HALF:10", "A:PERCENT:x", "A:PERCENT:10:", "a:PERCENT:10"] {
            assert!(parse_item(item.as_bytes()).is_none(), "{item}");
        }
        for value in [
            "",
            "A:PERCENT:10",
            "A:PERCENT:10:5",
            "A:PERCENT:10:5:LOST",
            "A:PERCENT:10:x:PENDING",
            "A:PERCENT:10:5:PENDING:",
        ] {
            assert!(parse(value).is_err(), "{value}");
        }
        let cases: [(&[u8], _); 7] = [
            (b"", 0),
            (b"u1", 0),
            (b"u1\n", 0),
            (b"\nA:PERCENT:10:5:PENDING", 0),
            (b"u1\nA:PERCENT:10:5:PENDING\n", 1),
            (b"u1\nwhat\nu2\nB:PERCENT:10:5:PENDING", 1),
            (b"u1\n\xff\xfe\nu2\nB:PERCENT:10:5:PENDING", 1),
        ];
        for (records, decoded) in cases {
            let (issued, undecodable) = parse_records(records);
            assert_eq!((issued.len(), undecodable), (decoded, 1), "{records:?}");
        }
        assert_eq!(parse("{}").unwrap_err().to_string(), r#"issue: Redis contains the invalid value "{}""#);
    }

    #[test]
    fn fuzz_seeds_are_handled() {
        for seed in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/stored")).unwrap() {
            parse_stored_value(&String::from_utf8_lossy(&std::fs::read(seed.unwrap().path()).unwrap()));
        }
    }
}
