-- A withdrawn opening has no start (migration 0009). Versions from before that migration do not write `starts_at`:
-- during an upgrade they could leave the start of an opening that they withdraw, and it would become that of a later
-- opening.

UPDATE coupon_event SET starts_at = NULL WHERE opens_at IS NULL AND starts_at IS NOT NULL;

CREATE FUNCTION clear_start() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.starts_at := NULL;
    RETURN NEW;
END
$$;

CREATE TRIGGER start_of_opening BEFORE UPDATE ON coupon_event
FOR EACH ROW WHEN (NEW.opens_at IS NULL AND NEW.starts_at IS NOT NULL) EXECUTE FUNCTION clear_start();
