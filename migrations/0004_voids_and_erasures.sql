-- Coupons that an administrator has withdrawn from their users, and erased users.

-- Why the coupon was voided, in the words of the administrator.
ALTER TABLE coupon_use ADD COLUMN reason text COLLATE "C";
ALTER TABLE coupon_use ADD CHECK ((kind = 'VOIDED') = (reason IS NOT NULL));

-- A coupon is voided at most once. Also for counting and listing the voids of an event, which are few.
CREATE UNIQUE INDEX coupon_use_voided ON coupon_use (event_uid, code) WHERE kind = 'VOIDED';

-- Rows of `issuance` are never updated, with one exception: a user who is erased is replaced by a pseudonym
-- (libs/domain/src/pseudonym.rs), and nothing else changes.
DROP TRIGGER never_updated ON issuance;
CREATE TRIGGER never_updated_except_erasure BEFORE UPDATE ON issuance FOR EACH ROW
WHEN (NOT (
    NEW.user_id LIKE 'erased:%' AND OLD.user_id NOT LIKE 'erased:%'
    AND (NEW.event_uid, NEW.code, NEW.type, NEW.value, NEW.issued_at, NEW.recorded_at, NEW.valid_until)
        IS NOT DISTINCT FROM
        (OLD.event_uid, OLD.code, OLD.type, OLD.value, OLD.issued_at, OLD.recorded_at, OLD.valid_until)
))
EXECUTE FUNCTION reject_update();
