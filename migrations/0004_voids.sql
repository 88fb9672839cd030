-- Coupons that an administrator has withdrawn from their users.

-- Why the coupon was voided, in the words of the administrator.
ALTER TABLE coupon_use ADD COLUMN reason text COLLATE "C";
ALTER TABLE coupon_use ADD CHECK ((kind = 'VOIDED') = (reason IS NOT NULL));

-- A coupon is voided at most once. Also for counting and listing the voids of an event, which are few.
CREATE UNIQUE INDEX coupon_use_voided ON coupon_use (event_uid, code) WHERE kind = 'VOIDED';
