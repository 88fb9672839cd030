#!lua
-- Puts what users hold into the outbox once more.
--
-- KEYS  1 couponMeta   2 couponOutbox
-- ARGV  1 uid   2 the records: userId and entry of each, a line for each of both
-- returns 1, or 0 when couponMeta is missing or of another event

if redis.call('HGET', KEYS[1], 'uid') ~= ARGV[1] then
  return 0
end
redis.call('XADD', KEYS[2], '*', 'uid', ARGV[1], 'records', ARGV[2])
return 1
