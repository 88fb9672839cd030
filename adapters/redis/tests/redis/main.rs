//! The adapter on a real Redis.

mod cluster;
mod event_list;
mod failover;
mod half_done;
mod issue;
mod load;
mod masters;
mod model;
mod outbox;
mod permissions;
mod recovery;
mod release;
mod retire;
mod support;
mod tls_and_acl;
