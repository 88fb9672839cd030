#!lua flags=allow-oom
-- Marks an event as active: it has, or may soon have, outbox entries. Idempotent.
--
-- KEYS  1 couponActiveEvents
-- ARGV  1 the eventId
-- returns 1 if the event was not active, otherwise 0

local time = redis.call('TIME')
return redis.call('ZADD', KEYS[1], time[1] * 1000 + math.floor(time[2] / 1000), ARGV[1])
