#!lua
-- Writes what became of issued coupons in the database. Done again, it changes nothing: an entry is only touched while it
-- still names the coupon, and a coupon goes back to the stock only with the change that takes it from its user.
--
-- At every instant: loaded = queue + entries that are not CANCEL + voided. A cancelled coupon that does not go back is voided.
-- An entry may get another coupon in place of its own (REPLACE). Redis may have forgotten that the user has that one, and hold it
-- in the queue: then it leaves the queue. Otherwise it was counted before, as voided or as held by somebody else too: where the
-- coupon that was issued goes back, voided goes down by one.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued
-- ARGV  1 uid   then five for each settlement, at most 1,500 of them:
--       userId   couponKey   status: COMPLETED, CANCEL or REPLACE   1 to put the coupon back, else 0
--       the entry to put in its place (REPLACE), else empty
-- returns { completed, cancelled, returned }, or nil when couponMeta is missing or of another event

if redis.call('HGET', KEYS[1], 'uid') ~= ARGV[1] then
  return false
end

local users = {}
for i = 2, #ARGV, 5 do
  users[#users + 1] = ARGV[i]
end
local found = redis.call('HMGET', KEYS[3], unpack(users))
local entries = {}
for i, user in ipairs(users) do
  entries[user] = found[i]
end

local PENDING, COMPLETED, CANCELLED = ':PENDING', ':COMPLETED', ':CANCEL'
local function item_of(entry)
  return string.match(entry, '^[^:]+:[^:]+:[^:]+')
end

local changed, returned, taken = {}, {}, {}
local completed, cancelled = 0, 0
for i = 2, #ARGV, 5 do
  local user, coupon, status, give_back, replacement = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local entry = entries[user]
  if entry and string.sub(entry, 1, #coupon + 1) == coupon .. ':' and string.sub(entry, -#PENDING) == PENDING then
    local bare = string.sub(entry, 1, -#PENDING - 1)
    if status == 'COMPLETED' then
      entries[user] = bare .. COMPLETED
      completed = completed + 1
    elseif status == 'REPLACE' then
      entries[user] = replacement
      completed = completed + 1
      taken[#taken + 1] = item_of(replacement)
    else
      entries[user] = bare .. CANCELLED
      cancelled = cancelled + 1
    end
    changed[user] = true
    if give_back == '1' then
      returned[#returned + 1] = item_of(entry)
    end
  end
end

local fields = {}
for user in pairs(changed) do
  fields[#fields + 1] = user
  fields[#fields + 1] = entries[user]
end
if #fields > 0 then
  redis.call('HSET', KEYS[3], unpack(fields))
  redis.call('HINCRBY', KEYS[1], 'completed', completed)
  redis.call('HINCRBY', KEYS[1], 'cancelled', cancelled)
  if #returned > 0 then
    redis.call('RPUSH', KEYS[2], unpack(returned))
  end
  -- Goes through all of the queue, for the few users of whom Redis and the database say different things.
  local removed = 0
  for _, item in ipairs(taken) do
    removed = removed + redis.call('LREM', KEYS[2], 0, item)
  end
  redis.call('HINCRBY', KEYS[1], 'voided', cancelled - #returned + removed)
end
return { completed, cancelled, #returned }
