#!lua flags=no-writes
-- Reads the state of an event, without its users, at one instant.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued   4 couponOutbox
-- returns nil if the event is unknown, otherwise
--   { couponMeta as field, value, ..., length of the queue, entries in couponIssued, entries in the outbox,
--     the time in milliseconds since the Unix epoch, the replication id of this Redis (master_replid), or an empty
--     text if it is not a master }

local meta = redis.call('HGETALL', KEYS[1])
if #meta == 0 then
  return false
end
local time = redis.call('TIME')
-- A replica has the replication id of its master, and may lag; so does a master that was demoted.
local info = redis.call('INFO', 'replication')
local is_master = string.find(info, '\nrole:master\r\n', 1, true)
return {
  meta,
  redis.call('LLEN', KEYS[2]),
  redis.call('HLEN', KEYS[3]),
  redis.call('XLEN', KEYS[4]),
  time[1] * 1000 + math.floor(time[2] / 1000),
  is_master and string.match(info, 'master_replid:(%x+)') or '',
}
