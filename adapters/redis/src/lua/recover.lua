#!lua
-- Begins to find out, or to make, what the event is in a Redis that is not known to be whole. From now on nothing that was
-- begun earlier for it has an effect: it carries another token.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued   4 couponOutbox
-- ARGV  1 uid   2 stock epoch   3 the master_replid of the Redis that was looked at   4 the new token
--       5 1 to begin with nothing loaded and nothing issued, 0 to leave everything as it is
-- returns now, in milliseconds since the Unix epoch, or nil when there is nothing to recover: couponMeta is missing, or of another
--   event or stock epoch, or retired; the Redis is another one, or known to be whole; or the outbox is not empty

local meta = redis.call('HMGET', KEYS[1], 'uid', 'stockEpoch', 'server', 'retired')
local server = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if meta[1] ~= ARGV[1] or meta[2] ~= ARGV[2] or meta[3] == server or meta[4] or server ~= ARGV[3]
  or redis.call('XLEN', KEYS[4]) > 0 then
  return false
end
redis.call('HSET', KEYS[1], 'token', ARGV[4])
if ARGV[5] == '1' then
  redis.call('UNLINK', KEYS[2], KEYS[3])
  redis.call('HSET', KEYS[1], 'loaded', 0, 'completed', 0, 'cancelled', 0, 'voided', 0)
end
local time = redis.call('TIME')
return time[1] * 1000 + math.floor(time[2] / 1000)
