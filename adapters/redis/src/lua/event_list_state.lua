#!lua flags=no-writes
-- Reads whether the set of all events is verified (verify_event_list.lua) and whether it has an event.
--
-- KEYS  1 couponEvents
-- ARGV  1 the eventId
-- returns { 1 if the set is verified, otherwise 0,  1 if it has the event, otherwise 0 }

local replication_id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local is_verified = redis.call('SISMEMBER', KEYS[1], 'verified:' .. replication_id)
return { is_verified, redis.call('SISMEMBER', KEYS[1], ARGV[1]) }
