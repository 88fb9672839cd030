//! The coupons and issuances of an event in Postgres.
