#!lua flags=allow-oom
-- Deletes outbox entries whose records Kafka has confirmed. The ids of a Redis that has lost its data may be assigned
-- again, to entries that are not confirmed. Therefore the outbox must be the one from which the entries were read.
--
-- KEYS  1 couponMeta   2 couponOutbox
-- ARGV  1 the incarnation of the outbox (outbox_state.lua)   then the ids, at most 1,000
-- returns how many entries were deleted

local recovery_id = redis.call('HGET', KEYS[1], 'recoveryId') or ''
local replication_id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if replication_id .. ':' .. recovery_id ~= ARGV[1] then
  return 0
end
return redis.call('XDEL', KEYS[2], unpack(ARGV, 2))
