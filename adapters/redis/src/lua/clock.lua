#!lua flags=no-writes
-- Returns the time of the node that has the outbox, whose clock its entry ids come from: in a cluster, each node has
-- its own.
--
-- KEYS  1 couponOutbox
-- returns the time in milliseconds since the Unix epoch

local time = redis.call('TIME')
return time[1] * 1000 + math.floor(time[2] / 1000)
