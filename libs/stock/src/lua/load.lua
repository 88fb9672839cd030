#!lua
-- Adds one chunk to the stock, exactly once whoever repeats it: the chunk says where it begins, and only the chunk that
-- begins where the stock ends is taken.
--
-- KEYS  1 couponMeta   2 couponQueue
-- ARGV  1 uid   2 the ordinal of the first item   3... the items (couponKey:TYPE:value), at most 6,000
-- returns how many coupons of the event are loaded now, or nil when couponMeta is missing or of another event

local meta = redis.call('HMGET', KEYS[1], 'uid', 'loaded')
if meta[1] ~= ARGV[1] then
  return false
end
local loaded = tonumber(meta[2])
if loaded ~= tonumber(ARGV[2]) then
  return loaded
end
redis.call('RPUSH', KEYS[2], unpack(ARGV, 3))
return redis.call('HINCRBY', KEYS[1], 'loaded', #ARGV - 2)
