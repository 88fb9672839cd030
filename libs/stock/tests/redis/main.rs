//! The stock on a real Redis.

mod issuing;
mod loading;
mod model;
mod outbox;
mod support;
