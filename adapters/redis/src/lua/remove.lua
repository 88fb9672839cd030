#!lua
-- Removes all that Redis holds of an event.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued   4 couponOutbox   5 couponSweeper
-- ARGV  1 uid   2 stock epoch, or empty for any
-- returns 1 when it was there, 0 when couponMeta is missing, or of another event or stock epoch

local meta = redis.call('HMGET', KEYS[1], 'uid', 'stockEpoch')
if meta[1] ~= ARGV[1] or (ARGV[2] ~= '' and meta[2] ~= ARGV[2]) then
  return 0
end
redis.call('UNLINK', unpack(KEYS))
return 1
