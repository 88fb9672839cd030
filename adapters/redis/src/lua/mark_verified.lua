#!lua flags=allow-oom
-- Marks this Redis as verified for the event, after which it issues coupons.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued
-- ARGV  1 uid   2 stock epoch   3 the observed replication id (master_replid)   4 the recovery id
--       After a recovery, otherwise both empty:
--       5 the lower bound of issuedAt for coupons issued from now on (milliseconds since the Unix epoch)
--       6 how many coupons must be loaded
-- returns 1, or nil if couponMeta does not exist or has another uid, stock epoch or recovery id, or if this Redis has
--   another replication id; the error STOCKMISMATCH if the counts do not match

local meta = redis.call('HMGET', KEYS[1], 'uid', 'stockEpoch', 'recoveryId', 'loaded', 'cancelled', 'withheld')
local replication_id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if meta[1] ~= ARGV[1] or meta[2] ~= ARGV[2] or (meta[3] or '') ~= ARGV[4] or replication_id ~= ARGV[3] then
  return false
end
if ARGV[6] ~= '' then
  local loaded, expected = tonumber(meta[4]), tonumber(ARGV[6])
  local issued = redis.call('HLEN', KEYS[3]) - tonumber(meta[5])
  local counted = redis.call('LLEN', KEYS[2]) + issued + tonumber(meta[6] or 0)
  if loaded ~= expected or counted ~= expected then
    return redis.error_reply('STOCKMISMATCH loaded ' .. loaded .. ', counted ' .. counted .. ', expected ' .. expected)
  end
  redis.call('HSET', KEYS[1], 'issuedAtMin', ARGV[5], 'replicationId', replication_id)
else
  redis.call('HSET', KEYS[1], 'replicationId', replication_id)
end
return 1
