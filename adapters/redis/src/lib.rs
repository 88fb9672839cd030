//! The coupons of an event in Redis.
//!
//! | key | type | content |
//! |---|---|---|
//! | `couponMeta:{eventId}` | HASH | uid, gate, window, validity, release, counts, epoch, recovery and other ids |
//! | `couponQueue:{eventId}` | LIST | the available coupons in shuffled order, `couponKey:TYPE:value` |
//! | `couponIssued:{eventId}` | HASH | userId to [`IssuedEntry`], as `couponKey:TYPE:value:issuedAt:STATUS` |
//! | `couponOutbox:{eventId}` | STREAM | records that Kafka has not confirmed |
//! | `couponSweeper:{eventId}` | STRING | the issuer that holds the sweeper lease |
//! | `couponEvents` | SET | the event list: the eventIds, and `verified:<replication id>` once the list is verified |
//! | `couponActiveEvents` | ZSET | the eventIds whose outbox is swept each second, and when they were marked |
//! | `couponOutboxWalk` | STRING | the issuer that reads the outboxes of all events |
//! | `couponInstallation` | STRING | the id of the installation that the keys belong to |
//! | `couponPendingDeletions` | SET | the events whose rows in Postgres are still to be deleted, as `uid/eventId` |
//!
//! # Guarantees
//! Every change that must be atomic is one Lua script under `src/lua`. All keys of an event share a hash slot, so the
//! scripts also run on a Redis Cluster. Writes that carry an outdated identifier have no effect ([`FencedWrite`]).
//!
//! # Assumptions
//! Redis 7 or later with `maxmemory-policy noeviction`. The settings of Redis determine which data a crash can lose;
//! after a restart or a failover, Redis issues nothing until it is verified ([`RedisStore::mark_verified`]).

mod active_events;
mod active_marks;
mod availability;
mod erase;
mod error;
mod event_list;
mod fenced_write;
mod gate;
mod installation;
mod issue;
mod issued_entry;
mod key;
mod load;
mod masters;
mod observe;
mod outbox;
mod pending_deletions;
mod reconnecting_connection;
mod recovery;
mod redis_store;
mod remove;
mod scan;
mod script;
mod server_version;
mod settle;

pub use couponry_settings::RedisSettings;
pub use erase::ErasedUser;
pub use error::{DriverError, RedisStoreError};
pub use fenced_write::FencedWrite;
pub use gate::GateSettings;
pub use issue::{IssueOutcome, IssueReply, MAX_BATCH};
#[cfg(any(test, fuzzing))]
pub use issued_entry::parse_stored_value;
pub use issued_entry::{IssuedEntry, IssuedStatus};
pub use masters::{DurabilitySettings, MasterInfo};
pub use observe::{Lookup, RedisEvent};
pub use outbox::{OutboxEntry, OutboxId, UnconfirmedEntries};
pub use reconnecting_connection::MAX_REDIRECTION_DELAY;
pub use recovery::{MAX_RESTORED, Recovered, Recovery};
pub use redis_store::RedisStore;
pub use scan::{IssuedPage, UndecodableValue};
pub use server_version::ServerVersion;
pub use settle::{MAX_SETTLEMENTS, Settled, Settlement, SettlementOutcome};
