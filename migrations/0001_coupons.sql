-- The coupons of the events, and who got them.
--
-- Two tables decide everything: `coupon` is the stock, written once before an event opens (and once for each top-up) and never updated;
-- `issuance` is the history of what was given to whom, only ever added to. That a coupon is issued is not a column of it but a row of
-- `issuance`: adding a row costs about half of updating one, and a unique index makes "one coupon, one user" impossible to break.

CREATE TABLE coupon_event (
    -- The uid of the CouponEvent: deleted and made again under the same name, it is another event.
    uid         uuid PRIMARY KEY,
    name        text COLLATE "C" NOT NULL,
    policy_name text NOT NULL,
    code_prefix text COLLATE "C",
    code_length smallint NOT NULL,
    -- Every code of the event follows from it: whoever may read it can read all unissued coupons.
    seed        bytea NOT NULL CHECK (octet_length(seed) = 32),
    -- From when on coupons may have been given out: set before the first one can be. In the future while an event waits for its start;
    -- once it is past, it is never unset, and the stock may not be made anew.
    opened_at   timestamptz,
    -- The generation of the manifest that is followed: whoever knows an older one leaves the event alone.
    generation  bigint NOT NULL,
    -- How often the stock was made anew. What was meant for an earlier stock epoch has no effect, however late it comes.
    stock_epoch integer NOT NULL DEFAULT 0,
    -- Issuances from before this time (Redis clock) that are not recorded yet are rejected: Redis may have issued their coupons to other
    -- users since. Set when Redis lost data and is restored from the issuances.
    record_cutoff timestamptz,
    -- When the operator first saw it: for people who look.
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX coupon_event_name ON coupon_event (name);

CREATE TABLE discount_policy (
    event_uid uuid NOT NULL REFERENCES coupon_event (uid) ON DELETE CASCADE,
    -- The order of the manifest.
    position  integer NOT NULL,
    type      text COLLATE "C" NOT NULL CHECK (type IN ('PERCENT', 'AMOUNT')),
    value     bigint NOT NULL CHECK (value > 0),
    -- How many coupons of the stock have this discount. Changes in the transaction that adds coupons, and only there.
    count     bigint NOT NULL CHECK (count >= 0),
    PRIMARY KEY (event_uid, position),
    UNIQUE (event_uid, type, value)
);

-- One partition per event: it is filled and indexed before it is attached (loading a million rows under their indexes takes several times
-- as long), and it goes away with its event in one step.
CREATE TABLE coupon (
    event_uid uuid NOT NULL,
    -- The shuffled order, from 0: Redis gives the coupons out in it.
    ordinal   bigint NOT NULL,
    code      text COLLATE "C" NOT NULL,
    type      text COLLATE "C" NOT NULL,
    value     bigint NOT NULL,
    PRIMARY KEY (event_uid, ordinal),
    UNIQUE (event_uid, code)
) PARTITION BY LIST (event_uid);

CREATE TABLE issuance (
    -- Nothing is recorded for an event that does not exist.
    event_uid   uuid NOT NULL REFERENCES coupon_event (uid),
    user_id     text COLLATE "C" NOT NULL,
    -- No foreign key to `coupon`: attaching the partition of another event would have to lock this table while an event is running. The
    -- statement that records joins with `coupon` instead, so a coupon that does not exist cannot get in.
    code        text COLLATE "C" NOT NULL,
    type        text COLLATE "C" NOT NULL,
    value       bigint NOT NULL,
    -- By the clock of Redis, in the step that gave the coupon.
    issued_at   timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (event_uid, user_id),
    UNIQUE (event_uid, code)
);

CREATE FUNCTION refuse_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never updated', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER never_updated BEFORE UPDATE ON coupon FOR EACH ROW EXECUTE FUNCTION refuse_update();
CREATE TRIGGER never_updated BEFORE UPDATE ON issuance FOR EACH ROW EXECUTE FUNCTION refuse_update();

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

COMMENT ON TABLE coupon_event IS 'One row per CouponEvent (by uid)';
COMMENT ON TABLE discount_policy IS 'How many coupons of each discount the stock of an event has';
COMMENT ON TABLE coupon IS 'The stock: one partition per event, never updated';
COMMENT ON TABLE issuance IS 'Who got which coupon, and when: append-only';
COMMENT ON VIEW coupon_status IS 'Every coupon, and who has it';
