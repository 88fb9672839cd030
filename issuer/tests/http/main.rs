//! Tests of the issuer program through its HTTP API, with real servers.

mod attacks;
mod cluster;
mod connections;
mod cors;
mod event_view;
mod invalid_requests;
mod issuing;
mod js_client;
mod lookups;
mod openapi;
mod outages;
mod outbox;
mod page;
mod page_outcomes;
mod protocol;
mod rate_limits;
mod release;
mod shutdown;
mod support;
mod token_signer;
mod tokens;
