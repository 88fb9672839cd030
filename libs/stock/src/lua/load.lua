#!lua
-- Adds one chunk to the stock, exactly once whoever repeats it: the chunk says where it begins, and only the chunk that
-- begins where the stock ends is taken.
--
-- KEYS  1 couponMeta   2 couponQueue
-- ARGV  1 uid   2 edition of the stock   3 the ordinal of the first item   4... the items (couponKey:TYPE:value), at most 6,000
-- returns how many coupons of the event are loaded now, or nil when couponMeta is missing, or of another event or edition, or
--   when its coupons have left Redis (retire.lua)

local meta = redis.call('HMGET', KEYS[1], 'uid', 'loaded', 'edition', 'retired')
if meta[1] ~= ARGV[1] or meta[3] ~= ARGV[2] or meta[4] then
  return false
end
local loaded = tonumber(meta[2])
if loaded ~= tonumber(ARGV[3]) then
  return loaded
end
redis.call('RPUSH', KEYS[2], unpack(ARGV, 4))
return redis.call('HINCRBY', KEYS[1], 'loaded', #ARGV - 3)
