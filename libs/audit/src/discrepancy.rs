//! The kinds of discrepancies and their messages.

use std::fmt;

use couponry_domain::{Discount, IssuedCoupon, UserId, Uuid, code::CouponCode};
use couponry_redis::{IssuedStatus, UndecodableValue};
use serde::{Serialize, Serializer};

/// Where a coupon was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// `couponQueue` in Redis.
    Queue,
    /// `couponIssued` in Redis.
    Issued,
    /// The topic.
    Kafka,
    /// `issuance` in Postgres.
    Postgres,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queue => "the Redis queue",
            Self::Issued => "Redis",
            Self::Kafka => "Kafka",
            Self::Postgres => "Postgres",
        })
    }
}

/// A discrepancy between the stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discrepancy {
    /// An opening is stored in Postgres, but Redis does not have it, or has another event of this name.
    EventMismatch {
        /// The event that Redis has.
        redis: Option<Uuid>,
    },
    /// The number of coupons differs from the counts of the discounts.
    StockSize {
        /// The sum of the counts.
        expected: u64,
        /// The number of coupons.
        actual: u64,
    },
    /// A coupon has one holder in Redis and another one in Postgres.
    TwoHolders {
        /// The coupon.
        coupon: CouponCode,
        /// The holder in Redis.
        redis: UserId,
        /// The holder in Postgres.
        postgres: UserId,
    },
    /// A coupon has two holders in Redis.
    IssuedTwice {
        /// The coupon.
        coupon: CouponCode,
        /// The holders.
        users: Vec<UserId>,
    },
    /// A user has one coupon in Redis and another one in Postgres.
    TwoCoupons {
        /// The user.
        user: UserId,
        /// The coupon in Redis.
        redis: CouponCode,
        /// The coupon in Postgres.
        postgres: CouponCode,
    },
    /// User and coupon are the same, but the discount or the time differs.
    DetailsDiffer {
        /// The issued coupon in Redis.
        redis: IssuedCoupon,
        /// The issued coupon in Postgres.
        postgres: IssuedCoupon,
    },
    /// A coupon is issued in Redis, but neither recorded nor in flight.
    NotRecorded {
        /// The issued coupon in Redis.
        issued: IssuedCoupon,
        /// Its status in Redis.
        status: IssuedStatus,
    },
    /// An issuance is recorded, but Redis does not have it.
    NotInRedis(IssuedCoupon),
    /// A record of the topic is neither recorded nor a dead letter nor in flight.
    OnlyInKafka {
        /// The record.
        issued: IssuedCoupon,
        /// What prevents its recording: an issuance of the same coupon or the same user in Postgres.
        postgres: Option<IssuedCoupon>,
        /// Whether Redis has it, too. It is then also reported as [`Self::NotRecorded`].
        is_in_redis: bool,
    },
    /// An issuance is recorded, but PENDING in Redis and not in flight.
    StillPending(IssuedCoupon),
    /// An issuance is recorded, but cancelled in Redis.
    CancelledButRecorded(IssuedCoupon),
    /// A coupon is voided in Redis or in Postgres, and not in the other one.
    VoidedInOne {
        /// The coupon.
        coupon: CouponCode,
        /// Its holder.
        user: UserId,
        /// Whether it is voided in Postgres, otherwise in Redis.
        in_postgres: bool,
    },
    /// A coupon was never generated.
    NotGenerated {
        /// The coupon.
        coupon: CouponCode,
        /// Where it was found.
        place: Place,
    },
    /// A coupon has another discount than in the stock.
    WrongDiscount {
        /// The coupon.
        coupon: CouponCode,
        /// Where it was found.
        place: Place,
        /// Its discount there.
        actual: Discount,
        /// Its discount in the stock.
        generated: Discount,
    },
    /// A coupon has a holder, and is available.
    AvailableAndIssued {
        /// The coupon.
        coupon: CouponCode,
        /// The holder.
        user: UserId,
    },
    /// A coupon is in the queue more than once.
    AvailableTwice {
        /// The coupon.
        coupon: CouponCode,
    },
    /// A value of `couponIssued` or `couponQueue` that Couponry does not write. Its coupon is reported as missing.
    Undecodable(UndecodableValue),
    /// An entry of the history of a coupon cannot follow the ones before it.
    InvalidUse {
        /// The coupon.
        coupon: CouponCode,
        /// The position of the entry in the history.
        seq: u32,
    },
    /// A coupon was loaded into Redis, but is neither available nor issued nor withheld.
    Missing {
        /// The coupon.
        coupon: CouponCode,
    },
}

/// How `couponry-operator repair` treats a discrepancy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remedy {
    /// Postgres has lost an issuance that Redis has.
    RecordFromRedis,
    /// Postgres has lost an issuance that only the topic has.
    RecordFromTopic,
    /// Postgres has an issuance that is not marked as recorded in Redis.
    MarkRecorded,
    /// Redis is restored from Postgres.
    RestoreRedis,
    /// Two users have one coupon, or one user has two, the stock differs, or a value cannot be decoded. Nothing is
    /// changed because of it.
    Conflict,
    /// Nothing is lost.
    Unnecessary,
}

impl Discrepancy {
    /// The remedy for it.
    #[must_use]
    pub const fn remedy(&self) -> Remedy {
        match self {
            Self::NotRecorded { .. } => Remedy::RecordFromRedis,
            Self::StillPending(_) => Remedy::MarkRecorded,
            Self::OnlyInKafka { is_in_redis: true, .. } => Remedy::Unnecessary,
            Self::OnlyInKafka { postgres: None, .. } => Remedy::RecordFromTopic,
            Self::EventMismatch { redis: None }
            | Self::NotInRedis(_)
            | Self::CancelledButRecorded(_)
            | Self::VoidedInOne { .. }
            | Self::AvailableAndIssued { .. }
            | Self::AvailableTwice { .. }
            | Self::Missing { .. }
            | Self::NotGenerated { place: Place::Queue, .. }
            | Self::WrongDiscount { place: Place::Queue, .. } => Remedy::RestoreRedis,
            Self::EventMismatch { redis: Some(_) }
            | Self::StockSize { .. }
            | Self::TwoHolders { .. }
            | Self::IssuedTwice { .. }
            | Self::TwoCoupons { .. }
            | Self::DetailsDiffer { .. }
            | Self::OnlyInKafka { postgres: Some(_), .. }
            | Self::NotGenerated { .. }
            | Self::WrongDiscount { .. }
            | Self::InvalidUse { .. }
            | Self::Undecodable(_) => Remedy::Conflict,
        }
    }

    /// The name of the kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::EventMismatch { .. } => "eventMismatch",
            Self::StockSize { .. } => "stockSize",
            Self::TwoHolders { .. } => "twoHolders",
            Self::IssuedTwice { .. } => "issuedTwice",
            Self::TwoCoupons { .. } => "twoCoupons",
            Self::DetailsDiffer { .. } => "detailsDiffer",
            Self::NotRecorded { .. } => "notRecorded",
            Self::NotInRedis(_) => "notInRedis",
            Self::OnlyInKafka { .. } => "onlyInKafka",
            Self::StillPending(_) => "stillPending",
            Self::CancelledButRecorded(_) => "cancelledButRecorded",
            Self::VoidedInOne { .. } => "voidedInOne",
            Self::NotGenerated { .. } => "notGenerated",
            Self::WrongDiscount { .. } => "wrongDiscount",
            Self::AvailableAndIssued { .. } => "availableAndIssued",
            Self::AvailableTwice { .. } => "availableTwice",
            Self::Undecodable(_) => "undecodable",
            Self::InvalidUse { .. } => "invalidUse",
            Self::Missing { .. } => "missing",
        }
    }
}

impl fmt::Display for Discrepancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let issued = |f: &mut fmt::Formatter<'_>, issued: &IssuedCoupon, place| {
            write!(f, "coupon {} is issued to {} in {place}", issued.coupon, issued.user_id)
        };
        match self {
            Self::EventMismatch { redis: None } => {
                f.write_str("the event has a scheduled opening in Postgres, but Redis does not have it")
            }
            Self::EventMismatch { redis: Some(uid) } => {
                write!(f, "Redis has another event of this name, with the uid {uid}")
            }
            Self::StockSize { expected, actual } => {
                write!(
                    f,
                    "Postgres has {actual} coupons of the event, but the counts of its discounts add up to {expected}"
                )
            }
            Self::TwoHolders { coupon, redis, postgres } => {
                write!(f, "coupon {coupon} is issued to {redis} in Redis, but to {postgres} in Postgres")
            }
            Self::IssuedTwice { coupon, users } => {
                let users: Vec<&str> = users.iter().map(UserId::as_str).collect();
                write!(f, "coupon {coupon} is issued to {} in Redis", users.join(" and to "))
            }
            Self::TwoCoupons { user, redis, postgres } => {
                write!(f, "{user} has coupon {redis} in Redis, but {postgres} in Postgres")
            }
            Self::DetailsDiffer { redis, postgres } => {
                let (redis_time, postgres_time) = (time(redis.issued_at), time(postgres.issued_at));
                issued(f, redis, "Redis")?;
                write!(
                    f,
                    " as {} at {redis_time}, but in Postgres as {} at {postgres_time}",
                    redis.discount, postgres.discount
                )
            }
            Self::NotRecorded { issued: coupon, status } => {
                issued(f, coupon, "Redis")?;
                if status.is_recorded() {
                    f.write_str(" and marked as recorded")?;
                }
                f.write_str(", but it is neither recorded in Postgres nor in flight")
            }
            Self::NotInRedis(coupon) => {
                issued(f, coupon, "Postgres")?;
                f.write_str(", but Redis has no coupon of this user")
            }
            Self::OnlyInKafka { issued: coupon, postgres, is_in_redis: _ } => {
                issued(f, coupon, "Kafka")?;
                match postgres {
                    Some(other) if other.coupon == coupon.coupon => write!(f, ", but to {} in Postgres", other.user_id),
                    Some(other) => write!(f, ", but coupon {} in Postgres", other.coupon),
                    None => f.write_str(", but it is neither recorded in Postgres nor a dead letter"),
                }
            }
            Self::StillPending(coupon) => {
                issued(f, coupon, "Postgres")?;
                f.write_str(", but it is still PENDING in Redis")
            }
            Self::CancelledButRecorded(coupon) => {
                issued(f, coupon, "Postgres")?;
                f.write_str(", but its entry in Redis is marked CANCEL")
            }
            Self::VoidedInOne { coupon, user, in_postgres } => {
                let (voided, other) = if *in_postgres { ("Postgres", "Redis") } else { ("Redis", "Postgres") };
                write!(f, "coupon {coupon} of {user} is voided in {voided}, but not in {other}")
            }
            Self::NotGenerated { coupon, place } => write!(f, "coupon {coupon} is in {place}, but was never generated"),
            Self::WrongDiscount { coupon, place, actual, generated } => {
                write!(
                    f,
                    "coupon {coupon} has the discount {actual} in {place}, but {generated} in the stock in Postgres"
                )
            }
            Self::AvailableAndIssued { coupon, user } => {
                write!(f, "coupon {coupon} is issued to {user} in Redis, and still in the queue")
            }
            Self::AvailableTwice { coupon } => write!(f, "coupon {coupon} is in the Redis queue more than once"),
            Self::Undecodable(UndecodableValue { user: Some(user), value }) => {
                write!(f, "the entry of {user:?} in couponIssued in Redis cannot be decoded: {value:?}")
            }
            Self::Undecodable(UndecodableValue { user: None, value }) => {
                write!(f, "a value of couponQueue in Redis cannot be decoded: {value:?}")
            }
            Self::InvalidUse { coupon, seq } => {
                write!(f, "entry {seq} of the history of coupon {coupon} cannot follow the entries before it")
            }
            Self::Missing { coupon } => {
                write!(f, "coupon {coupon} was loaded into Redis, but is neither available, issued nor withheld there")
            }
        }
    }
}

/// Milliseconds since the Unix epoch as an RFC 3339 timestamp.
fn time(at: i64) -> String {
    jiff::Timestamp::from_millisecond(at).map_or_else(|_| at.to_string(), |at| format!("{at:.3}"))
}

/// Serialized as its kind and its message.
impl Serialize for Discrepancy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields {
            kind: &'static str,
            message: String,
        }
        Fields { kind: self.kind(), message: self.to_string() }.serialize(serializer)
    }
}
