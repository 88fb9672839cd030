#!lua flags=no-writes
-- Reads what is needed to list the outbox.
--
-- KEYS  1 couponMeta   2 couponOutbox
-- returns { the time of this node in milliseconds since the Unix epoch, from whose clock the entry ids come,
--           1 if this Redis is verified for the event, otherwise 0,
--           the incarnation of the outbox: the replication id of this Redis and the recovery id of the event,
--           the id of the installation, or empty if it is not known,
--           the validity of the coupons, or empty if it is unlimited }

local meta = redis.call('HMGET', KEYS[1], 'replicationId', 'recoveryId', 'installation', 'validity')
local replication_id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local time = redis.call('TIME')
local is_verified = meta[1] == replication_id
return {
  time[1] * 1000 + math.floor(time[2] / 1000),
  is_verified and 1 or 0,
  replication_id .. ':' .. (meta[2] or ''),
  meta[3] or '',
  meta[4] or '',
}
