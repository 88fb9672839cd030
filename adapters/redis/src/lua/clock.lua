#!lua flags=no-writes
-- The clock that the ids of an outbox come from: in a cluster each node has its own.
--
-- KEYS  1 couponOutbox
-- returns now, in milliseconds since the Unix epoch

local time = redis.call('TIME')
return time[1] * 1000 + math.floor(time[2] / 1000)
