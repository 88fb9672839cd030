#!lua
-- Takes or keeps the role of the one issuer that sends what others left in an event's outbox.
--
-- KEYS  1 couponSweeper
-- ARGV  1 the issuer's own id   2 for how many milliseconds
-- returns 1 when the role is the caller's, else 0

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
