-- The history of issued coupons at the shop: reserved, redeemed, released, voided.
--
-- `coupon_use` is append-only: one row for each change, numbered from 1 for each coupon. The primary key is a
-- compare-and-swap: of two sessions that have read the same last row, only one can insert the next one.
CREATE TABLE coupon_use (
    -- With `code`, a row of `issuance`. Not a foreign key, because it would search this table for each issuance that is
    -- deleted. Instead, the statement that inserts a row locks that of the issuance.
    event_uid    uuid NOT NULL,
    code         text COLLATE "C" NOT NULL,
    seq          integer NOT NULL CHECK (seq > 0),
    kind         text COLLATE "C" NOT NULL CHECK (kind IN ('RESERVED', 'REDEEMED', 'RELEASED', 'VOIDED')),
    -- The order of the shop. NULL: not by an order.
    order_ref    text COLLATE "C",
    -- When the reservation ends.
    until        timestamptz,
    -- The idempotency key of the request, and a hash of the request: the same key with another request is refused.
    request_id   text COLLATE "C",
    request_hash bytea,
    -- The authenticated caller, if callers are authenticated.
    actor        text COLLATE "C",
    -- When it was decided, by the clock of Postgres.
    at           timestamptz NOT NULL,
    PRIMARY KEY (event_uid, code, seq),
    UNIQUE (event_uid, request_id),
    CHECK ((kind = 'RESERVED') = (until IS NOT NULL)),
    CHECK (kind = 'VOIDED' OR order_ref IS NOT NULL),
    CHECK ((request_id IS NULL) = (request_hash IS NULL))
);

-- A coupon is redeemed at most once, whatever a program decides.
CREATE UNIQUE INDEX coupon_use_redeemed ON coupon_use (event_uid, code) WHERE kind = 'REDEEMED';

CREATE TRIGGER never_updated BEFORE UPDATE ON coupon_use FOR EACH ROW EXECUTE FUNCTION reject_update();

CREATE FUNCTION reject_deletion_with_uses() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT FROM coupon_use WHERE event_uid = OLD.uid) THEN
        RAISE EXCEPTION 'the coupons of the event % have uses', OLD.uid USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN OLD;
END
$$;

CREATE TRIGGER without_uses BEFORE DELETE ON coupon_event
FOR EACH ROW EXECUTE FUNCTION reject_deletion_with_uses();

COMMENT ON TABLE coupon_use IS 'Reservations, redemptions and releases of issued coupons: append-only';
