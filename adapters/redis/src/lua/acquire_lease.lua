#!lua flags=allow-oom
-- Acquires or renews a lease of an issuer: the sweeper lease of an event, whose holder sends the outbox entries of
-- other issuers, or the one for reading all outboxes.
--
-- KEYS  1 couponSweeper or couponOutboxWalk
-- ARGV  1 the id of the issuer   2 the duration of the lease in milliseconds
-- returns 1 if the issuer holds the lease, otherwise 0
--
-- The value is the holder and the time at which it has acquired or renewed the lease. If the clock of Redis is set
-- back, the key expires late; its time is in the future then, and the lease has ended.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = redis.call('GET', KEYS[1])
local holder, renewed_at = string.match(lease or '', '^(.*) (%d+)$')
if holder and holder ~= ARGV[1] and tonumber(renewed_at) <= now then
  return 0
end
redis.call('SET', KEYS[1], string.format('%s %.0f', ARGV[1], now), 'PX', ARGV[2])
return 1
