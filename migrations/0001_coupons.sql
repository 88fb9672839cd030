-- Coupon events, their coupons, and the issuances.
--
-- The stock of an event is a table of its own, `coupon_` followed by the uid without dashes, which is created when the
-- coupons are generated:
--
--     ordinal bigint PRIMARY KEY  -- the shuffled order, from 0: Redis issues the coupons in this order
--     code    text COLLATE "C" UNIQUE
--     type    text COLLATE "C"
--     value   bigint
--
-- It is filled before an event opens (and with each top-up), and its rows are never updated. The stocks have no common
-- parent table: a session can plan a query of a partitioned table without a partition that was just attached, and would
-- not find its coupons. The view `coupon` shows all of them.
--
-- `issuance` is append-only: one row for each recorded coupon. Whether a coupon is issued is not a column of the stock,
-- because an insert costs about half of an update, and the unique constraints of `issuance` guarantee one user per
-- coupon and one coupon per user.

-- The installation that this database belongs to: one row. Redis and the Kafka records carry the id, so that
-- installations that share servers by mistake recognize the data of the others.
CREATE TABLE installation (
    is_only       boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    id            uuid NOT NULL DEFAULT gen_random_uuid(),
    -- The Kubernetes namespace whose operator may change the data. NULL until the first operator has started.
    namespace     text,
    namespace_uid text,
    CHECK ((namespace IS NULL) = (namespace_uid IS NULL))
);

INSERT INTO installation DEFAULT VALUES;

CREATE TABLE coupon_event (
    -- The uid of the CouponEvent. A CouponEvent that is deleted and created again under the same name is another event.
    uid         uuid PRIMARY KEY,
    name        text COLLATE "C" NOT NULL,
    policy_name text NOT NULL,
    code_prefix text COLLATE "C",
    code_length smallint NOT NULL,
    -- Secret: all codes of the event are derived from it.
    seed        bytea NOT NULL CHECK (octet_length(seed) = 32),
    -- From when on coupons may be issued (Redis clock). Set before the gate opens. While it is set, the stock cannot be
    -- discarded.
    opens_at    timestamptz,
    -- Whether coupons may have been issued: then the opening is never unset. Otherwise the event waits for its start.
    is_opening_final boolean NOT NULL DEFAULT false,
    -- How often an opening was stored. A withdrawal carries this number, so that a late one has no effect.
    openings    integer NOT NULL DEFAULT 0,
    -- The generation of the applied manifest. A stale operator that has read an older one changes nothing.
    generation  bigint NOT NULL,
    -- Number of times the stock was discarded. Statements that carry another stock epoch have no effect.
    stock_epoch integer NOT NULL DEFAULT 0,
    -- Issuances before this time (Redis clock) that are not recorded yet are rejected. Set by each recovery of Redis:
    -- if Redis is restored from the recorded issuances, it may issue the coupons of unrecorded ones to other users.
    -- couponMeta in Redis has the same time as issuedAtMin: no later issuance receives an earlier time.
    record_cutoff timestamptz,
    -- The rows of the event are being deleted: nothing is recorded for it any more.
    is_purging  boolean NOT NULL DEFAULT false,
    -- When the operator marked the event as deleted, because its CouponEvent was deleted. Until then no event with
    -- another uid and the same name is registered: a CouponEvent that is missing, for example after a restore of
    -- Kubernetes, is not proof that its coupons are obsolete.
    resource_deleted_at timestamptz,
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

CREATE TABLE issuance (
    -- A uid of coupon_event, as the trigger known_events enforces.
    event_uid   uuid NOT NULL,
    user_id     text COLLATE "C" NOT NULL,
    -- Not a foreign key, because each event has a table of its own. Instead, the statement that inserts issuances joins
    -- the stock of the event, so an issuance of an unknown coupon cannot be recorded.
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

CREATE TRIGGER never_updated BEFORE UPDATE ON issuance FOR EACH ROW EXECUTE FUNCTION reject_update();

-- Issuances of an unknown event are rejected. A foreign key would do the same, but it searches the event for each row,
-- which is a quarter of the cost of recording. These triggers search it once for each statement, and lock it like a
-- foreign key until the end of the transaction. A deletion sees concurrent insertions in READ COMMITTED, which all
-- programs use.
CREATE FUNCTION require_events() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    inserted_event uuid;
BEGIN
    FOR inserted_event IN SELECT DISTINCT event_uid FROM inserted LOOP
        PERFORM FROM coupon_event WHERE uid = inserted_event FOR KEY SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'the event % does not exist', inserted_event USING ERRCODE = 'foreign_key_violation';
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

CREATE TRIGGER known_events AFTER INSERT ON issuance REFERENCING NEW TABLE AS inserted
FOR EACH STATEMENT EXECUTE FUNCTION require_events();

CREATE FUNCTION reject_event_with_issuances() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT FROM issuance WHERE event_uid = OLD.uid) THEN
        RAISE EXCEPTION 'the event % has issuances', OLD.uid USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN coalesce(NEW, OLD);
END
$$;

CREATE TRIGGER without_issuances BEFORE DELETE OR UPDATE OF uid ON coupon_event
FOR EACH ROW EXECUTE FUNCTION reject_event_with_issuances();

-- The stock of an event; no rows while it is not generated. A query of the views for one event reads only its table.
--
-- Readers of the views need no privilege for each table, but EXECUTE for this function. The name is qualified because
-- the caller's temporary tables would come first.
CREATE FUNCTION stock_of(event_uid uuid)
RETURNS TABLE (ordinal bigint, code text, type text, value bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT ROWS 100000 AS $$
DECLARE
    stock regclass := to_regclass(format('%I.coupon_%s', current_schema(), replace(event_uid::text, '-', '')));
BEGIN
    IF stock IS NOT NULL THEN
        RETURN QUERY EXECUTE format('SELECT ordinal, code, type, value FROM %s', stock);
    END IF;
END
$$;

REVOKE EXECUTE ON FUNCTION stock_of FROM PUBLIC;

CREATE VIEW coupon AS
SELECT
    coupon_event.uid AS event_uid,
    stock.ordinal,
    stock.code COLLATE "C" AS code,
    stock.type COLLATE "C" AS type,
    stock.value
FROM coupon_event
CROSS JOIN LATERAL stock_of(coupon_event.uid) AS stock;

CREATE VIEW coupon_status AS
SELECT
    coupon_event.name AS event,
    coupon_event.uid AS event_uid,
    stock.ordinal,
    stock.code COLLATE "C" AS code,
    stock.type COLLATE "C" AS type,
    stock.value,
    issuance.code IS NOT NULL AS recorded,
    issuance.user_id,
    issuance.issued_at
FROM coupon_event
CROSS JOIN LATERAL stock_of(coupon_event.uid) AS stock
LEFT JOIN issuance ON issuance.event_uid = coupon_event.uid AND issuance.code = stock.code COLLATE "C";

COMMENT ON TABLE installation IS 'The installation that this database belongs to';
COMMENT ON TABLE coupon_event IS 'Coupon events, by the uid of their CouponEvent';
COMMENT ON TABLE discount_policy IS 'Number of coupons of each discount of an event';
COMMENT ON TABLE issuance IS 'Recorded issuances: append-only';
COMMENT ON FUNCTION stock_of IS 'Generated coupons of an event';
COMMENT ON VIEW coupon IS 'Generated coupons of all events';
COMMENT ON VIEW coupon_status IS 'All coupons with their holders';
