#!lua flags=allow-oom
-- Begins a recovery of the event in a Redis that is not verified. The new recovery id fences earlier recoveries.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued   4 couponOutbox
-- ARGV  1 uid   2 stock epoch   3 the observed replication id (master_replid)   4 the new recovery id
--       5 1 to remove all available and issued coupons, 0 to keep them. The gate is LOADING then, unless it is CLOSED:
--         an interrupted restore must not be taken for an open event whose top-up is not loaded yet
-- returns the time in milliseconds since the Unix epoch, or nil if the recovery cannot begin: couponMeta does not
--   exist, has another uid or stock epoch, or is retired; this Redis has another replication id, or is verified; or
--   the outbox is not empty

local meta = redis.call('HMGET', KEYS[1], 'uid', 'stockEpoch', 'replicationId', 'retired', 'gate')
local replication_id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local is_verified = meta[3] == replication_id
if meta[1] ~= ARGV[1] or meta[2] ~= ARGV[2] or is_verified or meta[4] or replication_id ~= ARGV[3]
  or redis.call('XLEN', KEYS[4]) > 0 then
  return false
end
local time = redis.call('TIME')
if ARGV[5] == '1' and not redis.acl_check_cmd('UNLINK', KEYS[2], KEYS[3]) then
  return redis.error_reply('NOPERM no permissions to run UNLINK')
end
redis.call('HSET', KEYS[1], 'recoveryId', ARGV[4])
if ARGV[5] == '1' then
  redis.call('UNLINK', KEYS[2], KEYS[3])
  redis.call('HSET', KEYS[1], 'loaded', 0, 'completed', 0, 'cancelled', 0, 'withheld', 0,
    'voided', 0)
  if meta[5] ~= 'CLOSED' then
    redis.call('HSET', KEYS[1], 'gate', 'LOADING')
  end
end
return time[1] * 1000 + math.floor(time[2] / 1000)
