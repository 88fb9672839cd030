//! What can differ, in words.

use std::fmt;

use couponry_domain::{Discount, UserId, Uuid, code::CouponCode};
use couponry_redis::Status;
use serde::{Serialize, Serializer};

use crate::Held;

/// Where a coupon was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// `couponQueue` in Redis.
    Queue,
    /// `couponIssued` in Redis.
    Redis,
    /// The topic.
    Kafka,
    /// `issuance` in Postgres.
    Postgres,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queue => "the queue in Redis",
            Self::Redis => "Redis",
            Self::Kafka => "Kafka",
            Self::Postgres => "Postgres",
        })
    }
}

/// Something that does not fit together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Postgres has the event, and it was opened; Redis knows nothing of it, or only of another event of its name.
    OtherEvent {
        /// The event that Redis has.
        redis: Option<Uuid>,
    },
    /// The stock is not as large as the event says.
    StockSize {
        /// How many coupons there should be.
        wanted: u64,
        /// How many there are.
        found: u64,
    },
    /// One coupon, two users.
    TwoHolders {
        /// The coupon.
        coupon: CouponCode,
        /// Who has it in Redis.
        redis: UserId,
        /// Who has it in Postgres.
        postgres: UserId,
    },
    /// One coupon, two users, both in Redis.
    HeldTwice {
        /// The coupon.
        coupon: CouponCode,
        /// Who has it.
        users: Vec<UserId>,
    },
    /// One user, two coupons.
    TwoCoupons {
        /// The user.
        user: UserId,
        /// What Redis says.
        redis: CouponCode,
        /// What Postgres says.
        postgres: CouponCode,
    },
    /// The same user and coupon, with another discount or time.
    Details {
        /// What Redis says.
        redis: Held,
        /// What Postgres says.
        postgres: Held,
    },
    /// Redis gave a coupon; it is not recorded and no longer on its way.
    NotRecorded {
        /// What Redis says.
        held: Held,
        /// How far Redis believes it is.
        status: Status,
    },
    /// It is recorded; Redis was never told, or forgot.
    NotInRedis(Held),
    /// It is recorded, and the topic has no such record although nothing was ever deleted from it.
    NotInKafka(Held),
    /// The topic has it; it is neither recorded nor refused, and no longer on its way.
    OnlyInKafka {
        /// What the record says.
        held: Held,
        /// Who has the coupon by Postgres.
        postgres: Option<UserId>,
    },
    /// It is recorded, and Redis believes that it is still on its way.
    NotSettled(Held),
    /// It is recorded, and Redis says that it was taken back.
    CancelledButRecorded(Held),
    /// A coupon that nobody made.
    NotStocked {
        /// The coupon.
        coupon: CouponCode,
        /// Where it is.
        place: Place,
    },
    /// A coupon that is worth something else than the stock says.
    WrongDiscount {
        /// The coupon.
        coupon: CouponCode,
        /// Where it is.
        place: Place,
        /// What it is worth there.
        found: Discount,
        /// What the stock says.
        stocked: Discount,
    },
    /// A coupon that can still be given, and that someone has.
    QueuedAndHeld {
        /// The coupon.
        coupon: CouponCode,
        /// Who has it.
        user: UserId,
    },
    /// A coupon that could be given twice.
    QueuedTwice {
        /// The coupon.
        coupon: CouponCode,
    },
    /// A coupon of the stock that was loaded into Redis, is not there any more, and that nobody has.
    Missing {
        /// The coupon.
        coupon: CouponCode,
    },
}

impl Difference {
    /// A short name of its kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::OtherEvent { .. } => "otherEvent",
            Self::StockSize { .. } => "stockSize",
            Self::TwoHolders { .. } => "twoHolders",
            Self::HeldTwice { .. } => "heldTwice",
            Self::TwoCoupons { .. } => "twoCoupons",
            Self::Details { .. } => "details",
            Self::NotRecorded { .. } => "notRecorded",
            Self::NotInRedis(_) => "notInRedis",
            Self::NotInKafka(_) => "notInKafka",
            Self::OnlyInKafka { .. } => "onlyInKafka",
            Self::NotSettled(_) => "notSettled",
            Self::CancelledButRecorded(_) => "cancelledButRecorded",
            Self::NotStocked { .. } => "notStocked",
            Self::WrongDiscount { .. } => "wrongDiscount",
            Self::QueuedAndHeld { .. } => "queuedAndHeld",
            Self::QueuedTwice { .. } => "queuedTwice",
            Self::Missing { .. } => "missing",
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherEvent { redis: None } => f.write_str("Postgres has the event, Redis knows nothing of it"),
            Self::OtherEvent { redis: Some(uid) } => {
                write!(f, "Redis holds another event of this name, with the uid {uid}")
            }
            Self::StockSize { wanted, found } => {
                write!(f, "Postgres has {found} coupons of the event, its discounts add up to {wanted}")
            }
            Self::TwoHolders { coupon, redis, postgres } => {
                write!(f, "coupon {coupon} is held by {redis} in Redis and by {postgres} in Postgres")
            }
            Self::HeldTwice { coupon, users } => {
                let users: Vec<&str> = users.iter().map(UserId::as_str).collect();
                write!(f, "coupon {coupon} is held by {} in Redis, all at once", users.join(" and by "))
            }
            Self::TwoCoupons { user, redis, postgres } => {
                write!(f, "{user} holds coupon {redis} in Redis and {postgres} in Postgres")
            }
            Self::Details { redis, postgres } => {
                write!(f, "{} holds coupon {} as {}", redis.user, redis.coupon, redis.discount)?;
                write!(f, ", issued at {}, in Redis", time(redis.issued_at))?;
                write!(f, ", and as {}, issued at {}, in Postgres", postgres.discount, time(postgres.issued_at))
            }
            Self::NotRecorded { held, status } => {
                let belief = match status {
                    Status::Completed => ", which Redis takes for recorded",
                    Status::Pending | Status::Cancelled => "",
                };
                write!(f, "{} holds coupon {} in Redis{belief}; ", held.user, held.coupon)?;
                f.write_str("Postgres has no record of it, and nothing is on its way")
            }
            Self::NotInRedis(held) => {
                write!(f, "{} holds coupon {} in Postgres, and nothing in Redis", held.user, held.coupon)
            }
            Self::NotInKafka(held) => {
                write!(f, "{} holds coupon {} in Postgres, and Kafka has no record of it", held.user, held.coupon)
            }
            Self::OnlyInKafka { held, postgres } => {
                write!(f, "{} holds coupon {} in Kafka; ", held.user, held.coupon)?;
                match postgres {
                    Some(other) => write!(f, "in Postgres {other} has it"),
                    None => f.write_str("Postgres has no record of it, and it is not a dead letter"),
                }
            }
            Self::NotSettled(held) => {
                write!(f, "{} holds coupon {} in Postgres; Redis still has it as PENDING", held.user, held.coupon)
            }
            Self::CancelledButRecorded(held) => {
                write!(f, "{} holds coupon {} in Postgres; Redis has it as CANCEL", held.user, held.coupon)
            }
            Self::NotStocked { coupon, place } => write!(f, "coupon {coupon} is in {place}, and was never made"),
            Self::WrongDiscount { coupon, place, found, stocked } => {
                write!(f, "coupon {coupon} is worth {found} in {place}, and {stocked} in the stock in Postgres")
            }
            Self::QueuedAndHeld { coupon, user } => {
                write!(f, "coupon {coupon} is held by {user} in Redis, and in the queue to be given again")
            }
            Self::QueuedTwice { coupon } => write!(f, "coupon {coupon} is more than once in the queue in Redis"),
            Self::Missing { coupon } => {
                write!(f, "coupon {coupon} is in the stock in Postgres; in Redis it is neither available nor held")
            }
        }
    }
}

/// Milliseconds since the Unix epoch as people read them.
fn time(at: i64) -> String {
    jiff::Timestamp::from_millisecond(at).map_or_else(|_| at.to_string(), |at| format!("{at:.3}"))
}

/// As its kind and its words.
impl Serialize for Difference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields {
            kind: &'static str,
            message: String,
        }
        Fields { kind: self.kind(), message: self.to_string() }.serialize(serializer)
    }
}
