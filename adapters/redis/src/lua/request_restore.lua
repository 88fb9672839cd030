#!lua flags=allow-oom
-- Requests that the operator restores the event from Postgres: this Redis counts as not verified, and issues nothing,
-- until the recovery is complete.
--
-- KEYS  1 couponMeta
-- ARGV  1 uid   2 stock epoch   3 the observed replication id (master_replid)
-- returns 1, or nil if couponMeta does not exist, has another uid or stock epoch, or is retired, or if this Redis has
--   another replication id, or is not verified

local meta = redis.call('HMGET', KEYS[1], 'uid', 'stockEpoch', 'replicationId', 'retired')
local replication_id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if meta[1] ~= ARGV[1] or meta[2] ~= ARGV[2] or meta[3] ~= ARGV[3] or replication_id ~= ARGV[3] or meta[4] then
  return false
end
-- Not the id of any Redis.
redis.call('HSET', KEYS[1], 'replicationId', 'RESTORE')
return 1
