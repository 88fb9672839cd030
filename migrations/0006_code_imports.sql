-- Codes that were imported for an event with `spec.code.source: Imported`. The coupons themselves are in the stock of
-- the event, like generated ones; this is what else is known of each import.
CREATE TABLE code_import (
    event_uid     uuid NOT NULL REFERENCES coupon_event (uid) ON DELETE CASCADE,
    -- The ordinal of its first coupon.
    first_ordinal bigint NOT NULL CHECK (first_ordinal >= 0),
    count         bigint NOT NULL CHECK (count > 0),
    -- Of the file as it was received.
    sha256        bytea NOT NULL CHECK (octet_length(sha256) = 32),
    -- How hard the codes are to guess: one of about 2^guess_bits guesses matches a code of this import.
    guess_bits    smallint NOT NULL CHECK (guess_bits >= 0),
    imported_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (event_uid, first_ordinal)
);

COMMENT ON TABLE code_import IS 'Imports of codes that Couponry has not generated';
