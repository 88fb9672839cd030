#!lua flags=allow-oom
-- Marks this Redis as verified for the event, after which it issues coupons. After a recovery, the gate is set in the
-- same step: this Redis may have come back from before a pause, a close or another change, and must not issue coupons
-- by the earlier settings. A gate that is CLOSED remains CLOSED.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued
-- ARGV  1 uid   2 stock epoch   3 the observed replication id (master_replid)   4 the recovery id
--       After a recovery, otherwise no others:
--       5 the lower bound of issuedAt for coupons issued from now on (milliseconds since the Unix epoch)
--       6 how many coupons must be loaded
--       7 gate   8 start   9 end   10 acknowledge   11 generation   12 validity   13 the ramp in seconds
--       14 the key of the tickets   15 the drops, as for set_gate.lua
-- returns 1, or nil if couponMeta does not exist, has another uid, stock epoch or recovery id or a newer generation, or
--   if this Redis has another replication id; the error STOCKMISMATCH if the counts do not match

local meta = redis.call('HMGET', KEYS[1], 'uid', 'stockEpoch', 'recoveryId', 'loaded', 'cancelled', 'withheld',
  'generation', 'gate')
local replication_id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if meta[1] ~= ARGV[1] or meta[2] ~= ARGV[2] or (meta[3] or '') ~= ARGV[4] or replication_id ~= ARGV[3] then
  return false
end
if ARGV[6] then
  if tonumber(ARGV[11]) < tonumber(meta[7]) then
    return false
  end
  local loaded, expected = tonumber(meta[4]), tonumber(ARGV[6])
  local issued = redis.call('HLEN', KEYS[3]) - tonumber(meta[5])
  local counted = redis.call('LLEN', KEYS[2]) + issued + tonumber(meta[6] or 0)
  if loaded ~= expected or counted ~= expected then
    return redis.error_reply('STOCKMISMATCH loaded ' .. loaded .. ', counted ' .. counted .. ', expected ' .. expected)
  end
  local gate = meta[8] == 'CLOSED' and 'CLOSED' or ARGV[7]
  redis.call('HSET', KEYS[1], 'issuedAtMin', ARGV[5], 'gate', gate, 'start', ARGV[8], 'end', ARGV[9],
    'acknowledge', ARGV[10], 'generation', ARGV[11], 'validity', ARGV[12], 'rampSeconds', ARGV[13],
    'admissionKey', ARGV[14], 'drops', ARGV[15], 'replicationId', replication_id)
else
  redis.call('HSET', KEYS[1], 'replicationId', replication_id)
end
return 1
