//! The issued record: what is written down when a coupon was given to a user. One JSON record on the Kafka topic each.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use uuid::Uuid;

use crate::{
    code::CouponCode,
    discount::{Discount, DiscountType},
    identity::{EventName, UserId},
};

/// The Kafka header that says how to read a record.
pub const VERSION_HEADER: &str = "schema-version";

/// The value of [`VERSION_HEADER`] for the records that this version writes.
pub const VERSION: &str = "1";

/// One coupon given to one user. Its JSON form is the contract of the topic `coupon-issued`, schema version 1:
/// new fields may be added to it; renaming or removing one needs another version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedRecord {
    /// The `CouponEvent`'s name.
    pub event_id: EventName,
    /// The `CouponEvent`'s uid: an event made again under the same name is another event.
    pub event_uid: Uuid,
    /// Who has the coupon.
    pub user_id: UserId,
    /// The coupon's code.
    pub coupon: CouponCode,
    /// What it is worth.
    pub discount: Discount,
    /// When Redis gave it, in milliseconds since the Unix epoch.
    pub issued_at: i64,
}

/// The record's fields as they are named in JSON.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    event_id: EventName,
    event_uid: Uuid,
    user_id: UserId,
    coupon_key: std::borrow::Cow<'a, str>,
    discount_type: DiscountType,
    discount_amount: u32,
    issued_at: i64,
}

impl Serialize for IssuedRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Fields {
            event_id: self.event_id.clone(),
            event_uid: self.event_uid,
            user_id: self.user_id.clone(),
            coupon_key: self.coupon.as_str().into(),
            discount_type: self.discount.kind,
            discount_amount: self.discount.value,
            issued_at: self.issued_at,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for IssuedRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Fields { event_id, event_uid, user_id, coupon_key, discount_type, discount_amount, issued_at } =
            Fields::deserialize(deserializer)?;
        Ok(Self {
            event_id,
            event_uid,
            user_id,
            coupon: coupon_key.parse().map_err(D::Error::custom)?,
            discount: Discount { kind: discount_type, value: discount_amount },
            issued_at,
        })
    }
}

/// Why a message on the topic is no issued record.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableRecord {
    /// No version header, or one that this version does not know.
    #[error("{VERSION_HEADER} is {0:?}, this version reads {VERSION:?}")]
    Version(Option<String>),
    /// The value is not the JSON of a record.
    #[error("no issued record: {0}")]
    Json(#[from] serde_json::Error),
}

impl IssuedRecord {
    /// The record as the value of a Kafka message.
    ///
    /// # Panics
    /// Never: a record has no map keys and no values that JSON could not hold.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record is plain JSON")
    }

    /// Reads the value of a Kafka message with this version header.
    pub fn decode(version: Option<&[u8]>, value: &[u8]) -> Result<Self, UnreadableRecord> {
        if version != Some(VERSION.as_bytes()) {
            return Err(UnreadableRecord::Version(version.map(|v| String::from_utf8_lossy(v).into_owned())));
        }
        Ok(serde_json::from_slice(value)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(user: &str) -> IssuedRecord {
        IssuedRecord {
            event_id: "summer".parse().unwrap(),
            event_uid: Uuid::from_u128(1),
            user_id: user.parse().unwrap(),
            coupon: "SUMMER-7GK2M9QXW4TB".parse().unwrap(),
            discount: Discount { kind: DiscountType::Percent, value: 10 },
            issued_at: 1_796_083_200_000,
        }
    }

    #[test]
    fn the_json_is_the_contract() {
        assert_eq!(
            String::from_utf8(record("u1").encode()).unwrap(),
            concat!(
                r#"{"eventId":"summer","eventUid":"00000000-0000-0000-0000-000000000001","userId":"u1","#,
                r#""couponKey":"SUMMER-7GK2M9QXW4TB","discountType":"PERCENT","discountAmount":10,"issuedAt":1796083200000}"#
            )
        );
    }

    #[test]
    fn a_field_that_a_later_version_adds_is_passed_over() {
        let json = String::from_utf8(record("u1").encode()).unwrap().replacen('{', r#"{"channel":"app","#, 1);
        assert_eq!(IssuedRecord::decode(Some(b"1"), json.as_bytes()).unwrap(), record("u1"));
    }

    #[test]
    fn what_is_no_record_is_refused_with_its_reason() {
        let good = record("u1").encode();
        let refused = |version, value: &[u8]| IssuedRecord::decode(version, value).unwrap_err().to_string();
        assert_eq!(refused(None, &good), r#"schema-version is None, this version reads "1""#);
        assert_eq!(refused(Some(b"2"), &good), r#"schema-version is Some("2"), this version reads "1""#);
        assert!(refused(Some(b"1"), b"\xff\x00garbage").starts_with("no issued record: "));
        let with = |from: &str, to: &str| String::from_utf8(good.clone()).unwrap().replace(from, to).into_bytes();
        assert!(refused(Some(b"1"), &with("u1", "")).contains("userId is empty"));
        assert!(refused(Some(b"1"), &with("SUMMER-", "summer ")).contains("coupon code"));
        assert!(refused(Some(b"1"), &with("\"summer\"", "\"{x}\"")).contains("eventId"));
        assert!(refused(Some(b"1"), &with("PERCENT", "HALF")).contains("HALF"));
        assert!(refused(Some(b"1"), &with(":10,", ":-1,")).contains("-1"));
    }

    proptest! {
        #[test]
        fn every_user_survives_the_wire(user in "\\PC{1,60}") {
            if let Ok(user) = user.parse::<UserId>() {
                let record = IssuedRecord { user_id: user, ..record("u1") };
                prop_assert_eq!(IssuedRecord::decode(Some(b"1"), &record.encode()).unwrap(), record);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = IssuedRecord::decode(Some(b"1"), &bytes);
        }
    }
}
