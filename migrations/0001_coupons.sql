-- Coupon events, their coupons, and the issuances.
--
-- `coupon` is the stock: inserted before an event opens (and with each top-up), never updated. `issuance` is
-- append-only: one row for each recorded coupon. Whether a coupon is issued is not a column of `coupon`, because an
-- insert costs about half of an update, and the unique constraints of `issuance` guarantee one user per coupon and one
-- coupon per user.

CREATE TABLE coupon_event (
    -- The uid of the CouponEvent. A CouponEvent that is deleted and created again under the same name is another event.
    uid         uuid PRIMARY KEY,
    name        text COLLATE "C" NOT NULL,
    policy_name text NOT NULL,
    code_prefix text COLLATE "C",
    code_length smallint NOT NULL,
    -- Secret: all codes of the event are derived from it.
    seed        bytea NOT NULL CHECK (octet_length(seed) = 32),
    -- The earliest time at which a coupon may be issued. Set before the first coupon can be issued, so it is in the
    -- future while the event waits for its start. Once it has passed, it is never unset, and the stock cannot be
    -- discarded any more.
    opened_at   timestamptz,
    -- The generation of the applied manifest. A stale operator that has read an older one changes nothing.
    generation  bigint NOT NULL,
    -- How often the stock was discarded. Statements that carry another stock epoch have no effect.
    stock_epoch integer NOT NULL DEFAULT 0,
    -- Issuances before this time (Redis clock) that are not recorded yet are rejected. Set by a recovery that restores
    -- Redis from the recorded issuances: Redis may issue the coupons of unrecorded ones to other users afterwards.
    record_cutoff timestamptz,
    -- When the operator registered the event. Informational.
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX coupon_event_name ON coupon_event (name);

CREATE TABLE discount_policy (
    event_uid uuid NOT NULL REFERENCES coupon_event (uid) ON DELETE CASCADE,
    -- The position in the manifest.
    position  integer NOT NULL,
    type      text COLLATE "C" NOT NULL CHECK (type IN ('PERCENT', 'AMOUNT')),
    value     bigint NOT NULL CHECK (value > 0),
    -- The number of coupons with this discount. Changed only in the transaction that inserts the coupons.
    count     bigint NOT NULL CHECK (count >= 0),
    PRIMARY KEY (event_uid, position),
    UNIQUE (event_uid, type, value)
);

-- One partition per event. It is filled and indexed before it is attached (inserting a million rows into an indexed
-- table takes several times as long), and dropped together with its event.
CREATE TABLE coupon (
    event_uid uuid NOT NULL,
    -- The shuffled order, from 0: Redis issues the coupons in this order.
    ordinal   bigint NOT NULL,
    code      text COLLATE "C" NOT NULL,
    type      text COLLATE "C" NOT NULL,
    value     bigint NOT NULL,
    PRIMARY KEY (event_uid, ordinal),
    UNIQUE (event_uid, code)
) PARTITION BY LIST (event_uid);

CREATE TABLE issuance (
    -- Rejects issuances of an unknown event.
    event_uid   uuid NOT NULL REFERENCES coupon_event (uid),
    user_id     text COLLATE "C" NOT NULL,
    -- Not a foreign key to `coupon`: attaching the partition of another event would lock this table while an event is
    -- running. Instead, the statement that inserts issuances joins `coupon`, so an issuance of an unknown coupon cannot
    -- be recorded.
    code        text COLLATE "C" NOT NULL,
    type        text COLLATE "C" NOT NULL,
    value       bigint NOT NULL,
    -- The Redis clock in the script that issued the coupon.
    issued_at   timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (event_uid, user_id),
    UNIQUE (event_uid, code)
);

CREATE FUNCTION reject_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never updated', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER never_updated BEFORE UPDATE ON coupon FOR EACH ROW EXECUTE FUNCTION reject_update();
CREATE TRIGGER never_updated BEFORE UPDATE ON issuance FOR EACH ROW EXECUTE FUNCTION reject_update();

CREATE VIEW coupon_status AS
SELECT
    coupon_event.name AS event,
    coupon.event_uid,
    coupon.ordinal,
    coupon.code,
    coupon.type,
    coupon.value,
    issuance.code IS NOT NULL AS issued,
    issuance.user_id,
    issuance.issued_at
FROM coupon
JOIN coupon_event ON coupon_event.uid = coupon.event_uid
LEFT JOIN issuance ON issuance.event_uid = coupon.event_uid AND issuance.code = coupon.code;

COMMENT ON TABLE coupon_event IS 'Coupon events, by the uid of their CouponEvent';
COMMENT ON TABLE discount_policy IS 'Number of coupons of each discount of an event';
COMMENT ON TABLE coupon IS 'Generated coupons: one partition per event, never updated';
COMMENT ON TABLE issuance IS 'Recorded issuances: append-only';
COMMENT ON VIEW coupon_status IS 'All coupons with their holders';
