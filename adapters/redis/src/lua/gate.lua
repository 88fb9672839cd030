#!lua
-- Sets what the manifest says of the window and the gate. A closed gate stays closed; a gate leaves LOADING only when the
-- whole stock is there; and what an older manifest says changes nothing, however late it comes. Closing always works.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued
-- ARGV  1 uid   2 gate   3 start   4 end (milliseconds since the Unix epoch, or empty)   5 acknowledge   6 generation
--       7 total: how many coupons must be loaded   8 stock epoch
-- returns the gate now in force, or nil when couponMeta is missing, or of another event or stock epoch;
--   the error NOTWHOLE when the stock is not whole

local meta = redis.call('HMGET', KEYS[1], 'uid', 'gate', 'loaded', 'generation', 'stockEpoch', 'cancelled', 'voided')
if meta[1] ~= ARGV[1] then
  return false
end
if ARGV[2] ~= 'CLOSED' then
  if meta[5] ~= ARGV[8] then
    return false
  elseif tonumber(ARGV[6]) < tonumber(meta[4]) then
    return meta[2]
  end
end
local gate = ARGV[2]
if meta[2] == 'CLOSED' then
  gate = 'CLOSED'
elseif meta[2] == 'LOADING' and (gate == 'OPEN' or gate == 'PAUSED') then
  local given = redis.call('HLEN', KEYS[3]) - tonumber(meta[6])
  local held = redis.call('LLEN', KEYS[2]) + given + tonumber(meta[7] or 0)
  if tonumber(meta[3]) ~= tonumber(ARGV[7]) or held ~= tonumber(ARGV[7]) then
    return redis.error_reply('NOTWHOLE loaded ' .. meta[3] .. ', held ' .. held .. ', wanted ' .. ARGV[7])
  end
end
redis.call('HSET', KEYS[1], 'gate', gate, 'start', ARGV[3], 'end', ARGV[4], 'acknowledge', ARGV[5], 'generation', ARGV[6])
return gate
