#!lua
-- Removes all that Redis holds of an event.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued   4 couponOutbox   5 couponSweeper
-- ARGV  1 uid
-- returns 1 when it was there, 0 when couponMeta is missing or of another event

if redis.call('HGET', KEYS[1], 'uid') ~= ARGV[1] then
  return 0
end
redis.call('UNLINK', unpack(KEYS))
return 1
