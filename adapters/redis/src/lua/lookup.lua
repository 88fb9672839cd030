#!lua flags=no-writes
-- Reads the entries of users.
--
-- KEYS  1 couponMeta   2 couponIssued
-- ARGV  the userIds, at most 3,000
-- returns nil if the event is unknown, otherwise
--   { uid, acknowledge, 1 if the event is retired (retire.lua), 1 if this Redis is verified,
--     for each user the entry or nil, the id of the installation, or nil or empty if it is not known,
--     the validity of the coupons, or nil or empty if it is unlimited }

if #ARGV > 3000 then
  return redis.error_reply('ERR at most 3,000 users can be looked up at once')
end
local meta = redis.call('HMGET', KEYS[1], 'uid', 'acknowledge', 'retired', 'replicationId', 'installation',
  'validity')
if not meta[1] then
  return false
end
-- A replica has the replication id of its master, and may lag.
local info = redis.call('INFO', 'replication')
local is_verified = meta[4] == string.match(info, 'master_replid:(%x+)')
  and string.find(info, '\nrole:master\r\n', 1, true)
local entries = redis.call('HMGET', KEYS[2], unpack(ARGV))
return { meta[1], meta[2], meta[3] and 1 or 0, is_verified and 1 or 0, entries, meta[5], meta[6] }
