#!lua flags=allow-oom
-- Lists the events that were marked as active recently, and removes the others from the set.
--
-- KEYS  1 couponActiveEvents
-- ARGV  1 the maximum age in milliseconds
-- returns the eventIds

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1])
return redis.call('ZRANGE', KEYS[1], 0, -1)
