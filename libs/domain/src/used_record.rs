//! The records of the uses of coupons on their Kafka topic.

use serde::Serialize;
use uuid::Uuid;

use crate::{
    code::CouponCode,
    names::{EventName, UserId},
    redemption::CouponUse,
};

/// The record of a use of a coupon. Its JSON form is the contract of the topic `coupon-used`, with the same version
/// header and version as [`crate::record`]: fields may be added; renaming or removing one requires a new version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedRecord {
    /// The `CouponEvent`'s name.
    pub event_id: EventName,
    /// The `CouponEvent`'s uid.
    pub event_uid: Uuid,
    /// The coupon. It is the key of the message.
    pub coupon: CouponCode,
    /// The holder.
    pub user_id: UserId,
    /// The entry of the coupon's history.
    pub entry: CouponUse,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    event_id: &'a str,
    event_uid: Uuid,
    coupon_key: &'a str,
    user_id: &'a str,
    seq: u32,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reserved_until: Option<i64>,
    at: i64,
}

impl UsedRecord {
    /// Encodes the record as the value of a Kafka message.
    ///
    /// # Panics
    /// Never: JSON can represent every value of a record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let fields = Fields {
            event_id: self.event_id.as_str(),
            event_uid: self.event_uid,
            coupon_key: self.coupon.as_str(),
            user_id: self.user_id.as_str(),
            seq: self.entry.seq,
            kind: self.entry.kind.as_str(),
            order_id: self.entry.order.as_ref().map(crate::OrderId::as_str),
            reserved_until: self.entry.until,
            at: self.entry.at,
        };
        serde_json::to_vec(&fields).expect("a record is valid JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redemption::UseKind;

    #[test]
    fn record_json_matches_the_contract() {
        let entry = |kind, order: Option<&str>, until| CouponUse {
            seq: 2,
            kind,
            order: order.map(|order| order.parse().unwrap()),
            until,
            at: 1_796_083_200_000,
        };
        let encode = |entry| {
            let record = UsedRecord {
                event_id: "summer".parse().unwrap(),
                event_uid: Uuid::from_u128(1),
                coupon: "SUMMER-7GK2M9QXW4TB".parse().unwrap(),
                user_id: "u1".parse().unwrap(),
                entry,
            };
            String::from_utf8(record.encode()).unwrap()
        };
        let start = concat!(
            r#"{"eventId":"summer","eventUid":"00000000-0000-0000-0000-000000000001","#,
            r#""couponKey":"SUMMER-7GK2M9QXW4TB","userId":"u1","seq":2,"#
        );
        assert_eq!(
            encode(entry(UseKind::Reserved, Some("order-1"), Some(1_796_083_260_000))),
            format!(
                "{start}{}",
                r#""kind":"RESERVED","orderId":"order-1","reservedUntil":1796083260000,"at":1796083200000}"#
            )
        );
        assert_eq!(
            encode(entry(UseKind::Voided, None, None)),
            format!("{start}{}", r#""kind":"VOIDED","at":1796083200000}"#)
        );
    }
}
