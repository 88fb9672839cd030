#!lua flags=no-writes
-- Everything about an event that can be told without its users, at one instant.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued   4 couponOutbox
-- returns nil when the event is unknown, else
--   { couponMeta as field, value, ..., length of the queue, entries in couponIssued, entries in the outbox, now in milliseconds,
--     master_replid of this Redis }

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
