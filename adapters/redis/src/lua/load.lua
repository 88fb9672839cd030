#!lua
-- Adds one chunk to the stock, exactly once whoever repeats it: the chunk says where it begins, and only the chunk that
-- begins where the stock ends is taken. In a recovery, coupons that users have are put into their hands again.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued
-- ARGV  1 uid   2 stock epoch   3 the token of the recovery, or empty: then the Redis must be known to be whole
--       4 the ordinal of the first coupon   5 the ordinal after the last   6 how many items follow
--       then the items (couponKey:TYPE:value), then in a recovery userId and entry of each coupon that a user has; in all, at most
--       6,000 values
-- returns how many coupons of the event are loaded now, or nil when couponMeta is missing, or of another event, stock epoch or
--   recovery, or when its coupons have left Redis (retire.lua)

local meta = redis.call('HMGET', KEYS[1], 'uid', 'loaded', 'stockEpoch', 'retired', 'token', 'server')
if meta[1] ~= ARGV[1] or meta[3] ~= ARGV[2] or meta[4] then
  return false
end
local is_whole = meta[6] == string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if is_whole ~= (ARGV[3] == '') or (not is_whole and meta[5] ~= ARGV[3]) then
  return false
end
local loaded, first, behind = tonumber(meta[2]), tonumber(ARGV[4]), tonumber(ARGV[5])
if loaded ~= first then
  return loaded
end
local items = tonumber(ARGV[6])
local holders = (#ARGV - 6 - items) / 2
if items + holders ~= behind - first then
  return redis.error_reply('NOTWHOLE ' .. items .. ' items and ' .. holders .. ' holders for ' .. (behind - first) .. ' coupons')
end
if items > 0 then
  redis.call('RPUSH', KEYS[2], unpack(ARGV, 7, 6 + items))
end
if holders > 0 then
  redis.call('HSET', KEYS[3], unpack(ARGV, 7 + items))
  redis.call('HINCRBY', KEYS[1], 'completed', holders)
end
return redis.call('HINCRBY', KEYS[1], 'loaded', behind - first)
