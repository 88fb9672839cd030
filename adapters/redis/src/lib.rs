//! The coupons of an event in Redis.
//!
//! | key | type | what |
//! |---|---|---|
//! | `couponMeta:{eventId}` | HASH | uid, gate, window, load progress, counts |
//! | `couponQueue:{eventId}` | LIST | the shuffled stock, `couponKey:TYPE:value` |
//! | `couponIssued:{eventId}` | HASH | userId to [`Holding`], as `couponKey:TYPE:value:issuedAt:STATUS` |
//! | `couponOutbox:{eventId}` | STREAM | issued, and not yet known to be in Kafka |
//! | `couponSweeper:{eventId}` | STRING | the issuer that sends what others left in the outbox |
//! | `couponEvents` | SET | the eventIds that have a `couponMeta` |
//!
//! Everything that must not be torn apart is one Lua script under `src/lua`; each says what it takes and returns. All keys of
//! an event share a hash slot, so the scripts also run on a Redis Cluster.
//!
//! # Assumptions
//! Redis 7 or later, with `maxmemory-policy noeviction`. What a crash of Redis can lose is decided by its own settings; after each
//! one, nothing is given before somebody has looked ([`Stock::adopt`]).

mod audit;
mod connection;
mod durability;
mod holding;
mod issue;
mod key;
mod link;
mod load;
mod observe;
mod outbox;
mod recover;
mod retire;
mod script;
mod settle;

pub use connection::{Stock, StockError};
pub use couponry_settings::RedisSettings;
pub use durability::{Durability, DurabilitySettings};
#[cfg(any(test, fuzzing))]
pub use holding::read_stored;
pub use holding::{Holding, Status};
pub use issue::{IssueReply, MAX_BATCH, Outcome};
pub use load::{Acknowledge, Loaded, Opening};
pub use observe::{Lookup, Observed};
pub use outbox::{CleanupIncomplete, OutboxEntry};
pub use recover::{MAX_RESTORED, Recovered, Recovery};
pub use settle::{MAX_SETTLEMENTS, Settled, Settlement, SettlementOutcome};
