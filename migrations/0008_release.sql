-- How an event releases its coupons over time, as its manifest specifies it. It changes only while no opening is
-- stored.

ALTER TABLE coupon_event
    -- Users are admitted over this time from the start. NULL: all of them from the start.
    ADD COLUMN ramp_seconds integer CHECK (ramp_seconds > 0),
    -- The coupons that are released later: libs/domain/src/release.rs. NULL: none.
    ADD COLUMN drops text COLLATE "C" CHECK (drops <> '');
