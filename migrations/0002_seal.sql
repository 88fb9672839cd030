-- What was issued before this time (by the clock of Redis) and is not recorded, never will be: since then Redis may give the
-- coupon to somebody else. Set when a Redis that lost something is filled again from the issuances.
ALTER TABLE coupon_event ADD COLUMN sealed_before timestamptz;
