#!lua flags=no-writes
-- What one user holds.
--
-- KEYS  1 couponMeta   2 couponIssued
-- ARGV  1 userId
-- returns nil when the event is unknown, else
--   { uid, acknowledge, 1 when the coupons have left Redis (retire.lua), 1 when this Redis is known to be whole, the entry or nil }

local meta = redis.call('HMGET', KEYS[1], 'uid', 'acknowledge', 'retired', 'server')
if not meta[1] then
  return false
end
local server = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
return { meta[1], meta[2], meta[3] and 1 or 0, meta[4] == server and 1 or 0, redis.call('HGET', KEYS[2], ARGV[1]) }
