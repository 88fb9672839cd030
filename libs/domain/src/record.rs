//! Issued coupons, and their JSON records on the Kafka topic.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use uuid::Uuid;

use crate::{
    code::CouponCode,
    discount::{Discount, DiscountType},
    names::{EventName, UserId},
};

/// The Kafka header with the schema version of a record.
pub const VERSION_HEADER: &str = "schema-version";

/// The schema version of this release.
pub const VERSION: &str = "1";

/// The Kafka header with the id of the installation that issued the coupon. Optional.
pub const INSTALLATION_HEADER: &str = "installation";

/// The latest time that Postgres and RFC 3339 can represent: the end of the year 9999, in milliseconds since the Unix
/// epoch.
pub const MAX_TIME: i64 = 253_402_300_799_999;

/// A coupon that was issued to a user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IssuedCoupon {
    /// The holder.
    pub user_id: UserId,
    /// The coupon's code.
    pub coupon: CouponCode,
    /// The coupon's discount.
    pub discount: Discount,
    /// When Redis issued it, in milliseconds since the Unix epoch.
    pub issued_at: i64,
}

/// The record of an issued coupon. Its JSON form is the contract of the topic `coupon-issued`, schema version 1:
/// fields may be added; renaming or removing one requires a new version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedRecord {
    /// The `CouponEvent`'s name.
    pub event_id: EventName,
    /// The `CouponEvent`'s uid: an event that is deleted and created again under the same name is another event.
    pub event_uid: Uuid,
    /// The issued coupon.
    pub issued: IssuedCoupon,
    /// From when on the coupon is not valid any more, in milliseconds since the Unix epoch. None: unlimited.
    pub valid_until: Option<i64>,
}

/// The fields of the JSON form. They are borrowed for writing, because an issuer writes one for each coupon.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<Event, User, Code> {
    event_id: Event,
    event_uid: Uuid,
    user_id: User,
    coupon_key: Code,
    discount_type: DiscountType,
    discount_amount: u32,
    issued_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_until: Option<i64>,
}

impl Serialize for IssuedRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let IssuedCoupon { user_id, coupon, discount, issued_at } = &self.issued;
        Fields {
            event_id: self.event_id.as_str(),
            event_uid: self.event_uid,
            user_id: user_id.as_str(),
            coupon_key: coupon.as_str(),
            discount_type: discount.kind,
            discount_amount: discount.value,
            issued_at: *issued_at,
            valid_until: self.valid_until,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for IssuedRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Fields { event_id, event_uid, user_id, coupon_key, discount_type, discount_amount, issued_at, valid_until } =
            Fields::<EventName, UserId, String>::deserialize(deserializer)?;
        if valid_until.is_some_and(|until| !(0..=MAX_TIME).contains(&until)) {
            return Err(D::Error::custom("validUntil is out of range"));
        }
        let coupon = coupon_key.parse().map_err(D::Error::custom)?;
        let discount = Discount { kind: discount_type, value: discount_amount };
        Ok(Self { event_id, event_uid, issued: IssuedCoupon { user_id, coupon, discount, issued_at }, valid_until })
    }
}

fn quoted_or_missing(version: Option<&str>) -> String {
    version.map_or_else(|| "missing".to_owned(), |version| format!("{version:?}"))
}

/// A Kafka message is not a valid issued record.
#[derive(Debug, thiserror::Error)]
pub enum RecordDecodeError {
    /// The version header is missing or unknown.
    #[error("the header {VERSION_HEADER} is {}, expected {VERSION:?}", quoted_or_missing(.0.as_deref()))]
    Version(Option<String>),
    /// The value is not valid JSON of a record.
    #[error("invalid issued record")]
    Json(#[from] serde_json::Error),
}

impl IssuedRecord {
    /// Encodes the record as the value of a Kafka message.
    ///
    /// # Panics
    /// Never: JSON can represent every value of a record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record is valid JSON")
    }

    /// Decodes the value of a Kafka message with this version header.
    pub fn decode(version: Option<&[u8]>, value: &[u8]) -> Result<Self, RecordDecodeError> {
        if version != Some(VERSION.as_bytes()) {
            return Err(RecordDecodeError::Version(version.map(|v| String::from_utf8_lossy(v).into_owned())));
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
            issued: IssuedCoupon {
                user_id: user.parse().unwrap(),
                coupon: "SUMMER-7GK2M9QXW4TB".parse().unwrap(),
                discount: Discount { kind: DiscountType::Percent, value: 10 },
                issued_at: 1_796_083_200_000,
            },
            valid_until: None,
        }
    }

    #[test]
    fn record_json_matches_the_contract() {
        assert_eq!(
            String::from_utf8(record("u1").encode()).unwrap(),
            concat!(
                r#"{"eventId":"summer","eventUid":"00000000-0000-0000-0000-000000000001","userId":"u1","#,
                r#""couponKey":"SUMMER-7GK2M9QXW4TB","discountType":"PERCENT","discountAmount":10,"issuedAt":1796083200000}"#
            )
        );
    }

    #[test]
    fn validity_is_the_last_field_and_optional() {
        let valid_until = Some(1_798_675_200_000);
        let limited = IssuedRecord { valid_until, ..record("u1") };
        let (json, unlimited) = (limited.encode(), record("u1").encode());
        let fields = str::from_utf8(&unlimited).unwrap().strip_suffix('}').unwrap();
        assert_eq!(str::from_utf8(&json).unwrap(), format!(r#"{fields},"validUntil":1798675200000}}"#));
        assert_eq!(IssuedRecord::decode(Some(b"1"), &json).unwrap(), limited);
        let null = format!(r#"{fields},"validUntil":null}}"#);
        assert_eq!(IssuedRecord::decode(Some(b"1"), null.as_bytes()).unwrap(), record("u1"));
    }

    #[test]
    fn unknown_field_is_ignored() {
        let json = String::from_utf8(record("u1").encode()).unwrap().replacen('{', r#"{"channel":"app","#, 1);
        assert_eq!(IssuedRecord::decode(Some(b"1"), json.as_bytes()).unwrap(), record("u1"));
    }

    #[test]
    fn invalid_record_is_rejected_with_its_reason() {
        let good = record("u1").encode();
        let rejected = |version, value: &[u8]| match IssuedRecord::decode(version, value).unwrap_err() {
            RecordDecodeError::Json(cause) => format!("invalid issued record: {cause}"),
            error @ RecordDecodeError::Version(_) => error.to_string(),
        };
        assert_eq!(rejected(None, &good), r#"the header schema-version is missing, expected "1""#);
        assert_eq!(rejected(Some(b"2"), &good), r#"the header schema-version is "2", expected "1""#);
        assert!(rejected(Some(b"1"), b"\xff\x00garbage").starts_with("invalid issued record: "));
        let with = |from: &str, to: &str| String::from_utf8(good.clone()).unwrap().replace(from, to).into_bytes();
        assert!(rejected(Some(b"1"), &with("u1", "")).contains("userId is empty"));
        assert!(rejected(Some(b"1"), &with("SUMMER-", "summer ")).contains("coupon code"));
        assert!(rejected(Some(b"1"), &with("\"summer\"", "\"{x}\"")).contains("eventId"));
        assert!(rejected(Some(b"1"), &with("PERCENT", "HALF")).contains("HALF"));
        assert!(rejected(Some(b"1"), &with(":10,", ":-1,")).contains("-1"));
        for out_of_range in ["-1", "253402300800000"] {
            let json = with("}", &format!(r#","validUntil":{out_of_range}}}"#));
            assert!(rejected(Some(b"1"), &json).contains("validUntil is out of range"));
        }
    }

    proptest! {
        #[test]
        fn user_id_survives_encoding(user in "\\PC{1,60}") {
            if let Ok(user) = user.parse::<UserId>() {
                let mut record = record("u1");
                record.issued.user_id = user;
                prop_assert_eq!(IssuedRecord::decode(Some(b"1"), &record.encode()).unwrap(), record);
            }
        }

        #[test]
        fn decode_of_arbitrary_bytes_does_not_panic(bytes: Vec<u8>) {
            let _ = IssuedRecord::decode(Some(b"1"), &bytes);
        }
    }
}
