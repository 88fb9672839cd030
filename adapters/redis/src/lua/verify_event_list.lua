#!lua flags=allow-oom
-- Adds events to the event list, and marks it as verified: it has every event that was loaded, also those that
-- this Redis has lost. The mark is a member of the set, so both are lost together, and has the replication id of this
-- Redis, which changes with each restart and failover. An eventId has no colon.
--
-- KEYS  1 couponEvents
-- ARGV  the eventIds
-- returns 1

-- Redis does not roll back a failed script, so no write below may fail after the first one.
local members = redis.call('SMEMBERS', KEYS[1])
if not redis.acl_check_cmd('SADD', KEYS[1]) or not redis.acl_check_cmd('SREM', KEYS[1]) then
  return redis.error_reply('NOPERM no permissions to run SADD and SREM')
end
local replication_id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
for _, member in ipairs(members) do
  if string.find(member, 'verified:', 1, true) == 1 then
    redis.call('SREM', KEYS[1], member)
  end
end
for _, event in ipairs(ARGV) do
  redis.call('SADD', KEYS[1], event)
end
redis.call('SADD', KEYS[1], 'verified:' .. replication_id)
return 1
