#!lua flags=allow-oom
-- Removes the coupons of an ended event after all issued coupons are recorded. couponMeta stays with the final counts
-- and a closed gate, so that later requests return ENDED. Idempotent.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued   4 couponOutbox   5 couponSweeper
-- ARGV  1 uid   2 stock epoch   3 generation
-- returns 1 if the coupons are removed, 0 if the event has not ended, an issued coupon is not recorded, couponMeta
--   has a newer generation, or this Redis is not verified; nil if couponMeta does not exist or has another uid or
--   stock epoch

local meta = redis.call('HMGET', KEYS[1], 'uid', 'stockEpoch', 'retired', 'generation', 'gate', 'end', 'completed',
  'cancelled', 'replicationId')
local uid, stock_epoch, retired, generation = meta[1], meta[2], meta[3], tonumber(meta[4])
local gate, ends = meta[5], tonumber(meta[6])
if uid ~= ARGV[1] or stock_epoch ~= ARGV[2] then
  return false
elseif retired then
  return 1
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local available, entries = redis.call('LLEN', KEYS[2]), redis.call('HLEN', KEYS[3])
local is_verified = meta[9] == string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local has_ended = gate == 'CLOSED' or (ends and now >= ends) or (not ends and gate == 'OPEN' and available == 0)
local is_recorded = redis.call('XLEN', KEYS[4]) == 0 and tonumber(meta[7]) >= entries - tonumber(meta[8])
if not is_verified or not has_ended or not is_recorded or tonumber(ARGV[3]) < generation then
  return 0
end
if not redis.acl_check_cmd('UNLINK', KEYS[2], KEYS[3], KEYS[4], KEYS[5]) then
  return redis.error_reply('NOPERM no permissions to run UNLINK')
end
redis.call('HSET', KEYS[1], 'gate', 'CLOSED', 'retired', gate, 'available', available, 'entries', entries)
redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
return 1
