-- The start with which the opening of an event was stored. A Redis that came back from an older snapshot has another
-- one, or none, and the manifest may have changed. Users have received times that depend on it (migration 0008).

ALTER TABLE coupon_event
    -- NULL: none, or the opening was stored by an earlier version.
    ADD COLUMN starts_at timestamptz;

-- An opening that is not final is that of a start in the future.
UPDATE coupon_event SET starts_at = opens_at WHERE opens_at IS NOT NULL AND NOT is_opening_final;
