-- Indexes for the numbers of reserved and redeemed coupons, which the status of an event has (`coupon_use_redeemed`
-- exists). Reservations that have ended are not read.
CREATE INDEX coupon_use_reserved ON coupon_use (event_uid, until) WHERE kind = 'RESERVED';
