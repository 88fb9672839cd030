#!lua flags=allow-oom
-- Acquires or renews a lease of an issuer: the sweeper lease of an event, whose holder sends the outbox entries of
-- other issuers, or the one for reading all outboxes.
--
-- KEYS  1 couponSweeper or couponSweepAll
-- ARGV  1 the id of the issuer   2 the duration of the lease in milliseconds
-- returns 1 if the issuer holds the lease, otherwise 0

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
