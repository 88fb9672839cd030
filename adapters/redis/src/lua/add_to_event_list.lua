#!lua flags=allow-oom
-- Adds an event to the event list of the installation. Idempotent.
--
-- KEYS  1 couponEvents
-- ARGV  1 the eventId
-- returns 1 if the event was missing, otherwise 0

return redis.call('SADD', KEYS[1], ARGV[1])
