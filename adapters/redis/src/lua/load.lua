#!lua
-- Loads one chunk of coupons. Idempotent: a chunk has the ordinal of its first coupon, and is accepted only if it
-- begins where the loaded stock ends. During a recovery, coupons that are issued are loaded with their holders.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued
-- ARGV  1 uid   2 stock epoch   3 the recovery id during a recovery, or empty, which requires a verified Redis
--       4 the ordinal of the first coupon   5 the ordinal after the last   6 how many items follow
--       then the items (couponKey:TYPE:value), then during a recovery userId and entry of each issued coupon;
--       at most 6,000 values in all
-- returns how many coupons are loaded, or nil if couponMeta does not exist, has another uid, stock epoch or recovery
--   id, or is retired (retire.lua), or if this Redis is not verified; the error STOCKMISMATCH if the ordinals and the
--   coupons do not match

local meta = redis.call('HMGET', KEYS[1], 'uid', 'loaded', 'stockEpoch', 'retired', 'recoveryId', 'replicationId',
  'completed', 'voided')
if meta[1] ~= ARGV[1] or meta[3] ~= ARGV[2] or meta[4] then
  return false
end
local is_verified = meta[6] == string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if is_verified ~= (ARGV[3] == '') or (not is_verified and meta[5] ~= ARGV[3]) then
  return false
end
local loaded, first, past_end = tonumber(meta[2]), tonumber(ARGV[4]), tonumber(ARGV[5])
if loaded ~= first then
  return loaded
end
local items = tonumber(ARGV[6])
local holders = (#ARGV - 6 - items) / 2
if #ARGV > 6006 then
  return redis.error_reply('ERR at most 6,000 values can be loaded at once')
end
if items + holders ~= past_end - first then
  local found = items .. ' items and ' .. holders .. ' holders'
  return redis.error_reply('STOCKMISMATCH ' .. found .. ' for ' .. (past_end - first) .. ' coupons')
end

-- Redis does not roll back a failed script, so no write below may fail after the first one.
local completed, voided = tonumber(meta[7]) + holders, tonumber(meta[8] or 0)
for i = 8 + items, #ARGV, 2 do
  if string.find(ARGV[i], ':VOIDED', -7, true) then
    voided = voided + 1
  end
end
redis.call('LLEN', KEYS[2])
redis.call('HLEN', KEYS[3])
if not redis.acl_check_cmd('HSET', KEYS[1]) or not redis.acl_check_cmd('HSET', KEYS[3]) then
  return redis.error_reply('NOPERM no permissions to run HSET')
end
if items > 0 then
  redis.call('RPUSH', KEYS[2], unpack(ARGV, 7, 6 + items))
  redis.call('HSET', KEYS[1], 'soldOutAt', '')
end
if holders > 0 then
  redis.call('HSET', KEYS[3], unpack(ARGV, 7 + items))
end
redis.call('HSET', KEYS[1], 'loaded', past_end, 'completed', completed, 'voided', voided)
return past_end
