#!lua flags=allow-oom
-- Adds the records of issued coupons to the outbox again.
--
-- KEYS  1 couponMeta   2 couponOutbox
-- ARGV  1 uid   2 the records: two lines for each, userId and entry
-- returns 1, or 0 if couponMeta does not exist or has another uid

if redis.call('HGET', KEYS[1], 'uid') ~= ARGV[1] then
  return 0
end
redis.call('XADD', KEYS[2], '*', 'uid', ARGV[1], 'records', ARGV[2])
return 1
