#!lua flags=allow-oom
-- Sets the gate back to LOADING, if the event certainly has not opened: no coupon was issued from this stock, and if
-- the gate is OPEN or PAUSED, its window has not begun by the clock of this Redis. While an opening is stored, a PAUSED
-- gate may have been OPEN before, and users may have received the times of the release. Idempotent.
--
-- KEYS  1 couponMeta   2 couponIssued
-- ARGV  1 uid   2 stock epoch   3 generation
-- returns 1 if the gate is LOADING now, 0 if the event may have opened or is closed; nil if couponMeta does not exist,
--   has another uid or stock epoch or a newer generation, or if this Redis is not verified

local meta = redis.call('HMGET', KEYS[1], 'uid', 'stockEpoch', 'generation', 'gate', 'start', 'replicationId')
local is_verified = meta[6] == string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if meta[1] ~= ARGV[1] or meta[2] ~= ARGV[2] or not is_verified or tonumber(ARGV[3]) < tonumber(meta[3]) then
  return false
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local gate, starts = meta[4], tonumber(meta[5])
local may_have_opened = gate ~= 'LOADING' and not (starts and now < starts)
if gate == 'CLOSED' or may_have_opened or redis.call('HLEN', KEYS[2]) > 0 then
  return 0
end
-- The generation prevents a delayed call for an older manifest from opening the gate again.
redis.call('HSET', KEYS[1], 'gate', 'LOADING', 'generation', ARGV[3])
return 1
