-- Erased users that Redis may still name: the erasure in Postgres is committed before that in Redis, which may fail.
CREATE TABLE pending_erasure (
    event_uid uuid NOT NULL REFERENCES coupon_event (uid) ON DELETE CASCADE,
    -- The user of the row of `issuance` since the erasure. No row has the user before it.
    pseudonym text COLLATE "C" NOT NULL CHECK (pseudonym ~ '^erased:[0-9a-f]{40}$'),
    PRIMARY KEY (event_uid, pseudonym)
);

COMMENT ON TABLE pending_erasure IS 'Erasures of users that are not completed in Redis yet';
