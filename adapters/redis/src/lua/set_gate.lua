#!lua flags=allow-oom
-- Sets the window, the gate, and the validity of the coupons:
-- - A gate that is CLOSED remains CLOSED.
-- - A gate that is LOADING becomes OPEN or PAUSED only if all coupons are loaded.
-- - An older generation or another stock epoch has no effect, except for closing the gate, which ignores both.
--
-- Closing and pausing succeed even if Redis is full. Closing keeps the validity, because it ignores which validity is
-- current, and the records of issued coupons may still have to be sent.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued
-- ARGV  1 uid   2 gate   3 start   4 end (milliseconds since the Unix epoch, or empty)   5 acknowledge   6 generation
--       7 how many coupons must be loaded   8 stock epoch   9 the validity, or empty if it is unlimited
-- returns the resulting gate, or nil if couponMeta does not exist or has another uid or stock epoch;
--   the error STOCKMISMATCH if the counts do not match

local meta = redis.call('HMGET', KEYS[1], 'uid', 'gate', 'loaded', 'generation', 'stockEpoch', 'cancelled', 'withheld',
  'validity')
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
  local loaded, expected = tonumber(meta[3]), tonumber(ARGV[7])
  local issued = redis.call('HLEN', KEYS[3]) - tonumber(meta[6])
  local counted = redis.call('LLEN', KEYS[2]) + issued + tonumber(meta[7] or 0)
  if loaded ~= expected or counted ~= expected then
    return redis.error_reply('STOCKMISMATCH loaded ' .. loaded .. ', counted ' .. counted .. ', expected ' .. expected)
  end
end
local validity = ARGV[2] == 'CLOSED' and meta[8] or ARGV[9]
redis.call('HSET', KEYS[1], 'gate', gate, 'start', ARGV[3], 'end', ARGV[4], 'acknowledge', ARGV[5],
  'generation', ARGV[6], 'validity', validity)
return gate
