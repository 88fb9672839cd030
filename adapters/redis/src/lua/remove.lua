#!lua flags=allow-oom
-- Removes all keys of an event.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued   4 couponOutbox   5 couponSweeper
-- ARGV  1 uid   2 stock epoch, or empty for any
-- returns 1 if the keys were removed, 0 if couponMeta does not exist or has another uid or stock epoch

local meta = redis.call('HMGET', KEYS[1], 'uid', 'stockEpoch')
if meta[1] ~= ARGV[1] or (ARGV[2] ~= '' and meta[2] ~= ARGV[2]) then
  return 0
end
redis.call('UNLINK', unpack(KEYS))
return 1
