#!lua flags=no-writes
-- Reads the state of an event, without its users, at one instant.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued   4 couponOutbox
-- returns nil if the event is unknown, otherwise
--   { couponMeta as field, value, ..., length of the queue, entries in couponIssued, entries in the outbox,
--     the time in milliseconds since the Unix epoch, the replication id of this Redis (master_replid) }

local meta = redis.call('HGETALL', KEYS[1])
if #meta == 0 then
  return false
end
local time = redis.call('TIME')
return {
  meta,
  redis.call('LLEN', KEYS[2]),
  redis.call('HLEN', KEYS[3]),
  redis.call('XLEN', KEYS[4]),
  time[1] * 1000 + math.floor(time[2] / 1000),
  string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)'),
}
