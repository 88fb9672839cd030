//! The coupons of an event in Redis: key layout, scripts, outbox.
