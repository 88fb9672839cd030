-- The uses of coupons that were not sent to the topic of uses yet: docs/adr/0031-use-records.md.
CREATE TABLE coupon_use_outbox (
    -- In the order of the history of each coupon: an entry is inserted after the previous one was committed.
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_uid uuid NOT NULL,
    code      text COLLATE "C" NOT NULL,
    seq       integer NOT NULL
);

-- A trigger, so that no program can change a coupon without sending it.
CREATE FUNCTION add_to_coupon_use_outbox() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO coupon_use_outbox (event_uid, code, seq) VALUES (NEW.event_uid, NEW.code, NEW.seq);
    RETURN NULL;
END
$$;

CREATE TRIGGER add_to_outbox AFTER INSERT ON coupon_use
FOR EACH ROW EXECUTE FUNCTION add_to_coupon_use_outbox();

-- Uses from before this migration.
INSERT INTO coupon_use_outbox (event_uid, code, seq)
SELECT event_uid, code, seq FROM coupon_use ORDER BY event_uid, code, seq;

COMMENT ON TABLE coupon_use_outbox IS 'Uses of coupons that were not sent to Kafka yet';
