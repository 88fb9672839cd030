#!lua
-- Takes the coupons of an event out of Redis that is over for good, when all that was given is recorded in the database. Its
-- couponMeta stays, with the counts as they were and a closed gate, so that late callers still hear ENDED. Done again, it
-- changes nothing.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued   4 couponOutbox   5 couponSweeper
-- ARGV  1 uid   2 stock epoch   3 generation of the manifest that says so
-- returns 1 when the coupons are gone, 0 when the event is not over, or not all is recorded, or its manifest is
--   newer, or this Redis is not known to be whole;
--   nil when couponMeta is missing, or of another event or stock epoch

local meta = redis.call('HMGET', KEYS[1], 'uid', 'stockEpoch', 'retired', 'generation', 'gate', 'end', 'completed', 'cancelled',
  'server')
local uid, stock_epoch, retired, generation, gate, ends = meta[1], meta[2], meta[3], tonumber(meta[4]), meta[5], tonumber(meta[6])
if uid ~= ARGV[1] or stock_epoch ~= ARGV[2] then
  return false
elseif retired then
  return 1
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local available, entries = redis.call('LLEN', KEYS[2]), redis.call('HLEN', KEYS[3])
local is_whole = meta[9] == string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local is_over = gate == 'CLOSED' or (ends and now >= ends) or (not ends and gate == 'OPEN' and available == 0)
local is_recorded = redis.call('XLEN', KEYS[4]) == 0 and tonumber(meta[7]) >= entries - tonumber(meta[8])
if not is_whole or not is_over or not is_recorded or tonumber(ARGV[3]) < generation then
  return 0
end
redis.call('HSET', KEYS[1], 'gate', 'CLOSED', 'retired', gate, 'available', available, 'entries', entries)
redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
return 1
