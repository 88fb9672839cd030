#!lua flags=allow-oom
-- Sets the window, the gate, the validity of the coupons, and how they are released:
-- - A gate that is CLOSED remains CLOSED.
-- - A gate that is LOADING becomes OPEN or PAUSED only if all coupons are loaded.
-- - An older generation or another stock epoch has no effect, except for closing the gate, which ignores both.
--
-- Closing and pausing succeed even if Redis is full. Closing keeps the validity and the release, because it ignores
-- which ones are current, and the records of issued coupons may still have to be sent.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued
-- ARGV  1 uid   2 stock epoch   3 how many coupons must be loaded
--       4 gate   5 start   6 end (milliseconds since the Unix epoch, or empty)   7 acknowledge   8 generation
--       9 the validity, or empty if it is unlimited
--       10 the ramp in seconds   11 the key of the tickets   12 the drops (each of them is empty if there is none)
-- returns the resulting gate, or nil if couponMeta does not exist or has another uid or stock epoch;
--   the error STOCKMISMATCH if the counts do not match

local meta = redis.call('HMGET', KEYS[1], 'uid', 'gate', 'loaded', 'generation', 'stockEpoch', 'cancelled', 'withheld',
  'validity')
if meta[1] ~= ARGV[1] then
  return false
end
if ARGV[4] ~= 'CLOSED' then
  if meta[5] ~= ARGV[2] then
    return false
  elseif tonumber(ARGV[8]) < tonumber(meta[4]) then
    return meta[2]
  end
end
local gate = ARGV[4]
if meta[2] == 'CLOSED' then
  gate = 'CLOSED'
elseif meta[2] == 'LOADING' and (gate == 'OPEN' or gate == 'PAUSED') then
  local loaded, expected = tonumber(meta[3]), tonumber(ARGV[3])
  local issued = redis.call('HLEN', KEYS[3]) - tonumber(meta[6])
  local counted = redis.call('LLEN', KEYS[2]) + issued + tonumber(meta[7] or 0)
  if loaded ~= expected or counted ~= expected then
    return redis.error_reply('STOCKMISMATCH loaded ' .. loaded .. ', counted ' .. counted .. ', expected ' .. expected)
  end
end
redis.call('HSET', KEYS[1], 'gate', gate, 'start', ARGV[5], 'end', ARGV[6], 'acknowledge', ARGV[7],
  'generation', ARGV[8])
if ARGV[4] ~= 'CLOSED' or not meta[8] then
  redis.call('HSET', KEYS[1], 'validity', ARGV[9], 'rampSeconds', ARGV[10], 'admissionKey', ARGV[11], 'drops', ARGV[12])
end
return gate
