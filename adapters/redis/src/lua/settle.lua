#!lua
-- Applies the decision of the database to issued coupons. Idempotent: an entry changes only while it is PENDING and
-- has this coupon, and a coupon returns to the queue only with the change that takes it from its user.
--
-- Invariant: loaded = queue + entries that are not CANCEL + voided. A cancelled coupon that does not return is voided.
-- REPLACE puts another coupon into the entry. If Redis has lost that issuance, the other coupon may be in the queue,
-- from where it is removed. Otherwise it is counted already, as voided or as issued to another user: then voided
-- decreases by one if the coupon that was issued returns to the queue.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued
-- ARGV  1 uid   then five values for each settlement, of which at most 1,500 are accepted:
--       userId   couponKey   status: COMPLETED, CANCEL or REPLACE   1 if the coupon returns to the queue, otherwise 0
--       the new entry (REPLACE), otherwise empty
-- returns { completed, cancelled, returned }, or nil if couponMeta does not exist or has another uid

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

local changed, returned, replacements = {}, {}, {}
local completed, cancelled = 0, 0
for i = 2, #ARGV, 5 do
  local user, coupon, status, returns, replacement = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local entry = entries[user]
  if entry and string.sub(entry, 1, #coupon + 1) == coupon .. ':' and string.sub(entry, -#PENDING) == PENDING then
    local bare = string.sub(entry, 1, -#PENDING - 1)
    if status == 'COMPLETED' then
      entries[user] = bare .. COMPLETED
      completed = completed + 1
    elseif status == 'REPLACE' then
      entries[user] = replacement
      completed = completed + 1
      replacements[#replacements + 1] = item_of(replacement)
    else
      entries[user] = bare .. CANCELLED
      cancelled = cancelled + 1
    end
    changed[user] = true
    if returns == '1' then
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
  -- Scans all of the queue; only for the few users for whom Redis and the database differ.
  local removed = 0
  for _, item in ipairs(replacements) do
    removed = removed + redis.call('LREM', KEYS[2], 0, item)
  end
  redis.call('HINCRBY', KEYS[1], 'voided', cancelled - #returned + removed)
end
return { completed, cancelled, #returned }
