//! Tests of the redeemer program through its HTTP API, with real servers.

mod changes;
mod checkout;
mod clock;
mod not_recorded;
mod openapi;
mod outages;
mod service_accounts;
mod support;
mod tokens;
mod uses;
