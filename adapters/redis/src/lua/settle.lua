#!lua flags=allow-oom
-- Applies the decision of the database to issued coupons. Idempotent: an entry changes only while it is PENDING and
-- has this coupon, and a coupon is put back into the queue only in the call that also changes the entry of its user.
-- An entry becomes VOIDED also if it is COMPLETED. It counts as completed then, and issue.lua returns it to its user.
--
-- Invariant: loaded = queue + entries that are not CANCEL + withheld. A cancelled coupon that is not put back into the
-- queue is withheld. REPLACE writes the coupon that is recorded for the user into the entry, and removes it from the
-- queue. So withheld changes by:
--                                                                  issued coupon put back   not put back
--   CANCEL                                                                              0             +1
--   REPLACE, the recorded coupon is in the queue                                        0             +1
--   REPLACE, the recorded coupon is withheld                                           -1              0
--   REPLACE, another user has it, whose entry is cancelled later                       -1              0
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued
-- ARGV  1 uid   2 how many coupons are completed, of users who occur once   then userId and couponKey of each of them
--       then five values for each other settlement: userId   couponKey   status: COMPLETED, VOIDED, CANCEL or REPLACE
--       1 to requeue the coupon, otherwise 0   the new entry (REPLACE), otherwise empty
--       At most 7,502 arguments are accepted: 1,500 settlements of any kind.
-- returns { completed, cancelled, requeued, voided }, or nil if couponMeta does not exist or has another uid

local meta = redis.call('HMGET', KEYS[1], 'uid', 'completed', 'cancelled', 'withheld', 'voided')
if meta[1] ~= ARGV[1] then
  return false
elseif #ARGV > 7502 then
  return redis.error_reply('ERR at most 1,500 coupons can be settled at once')
end
local first_other = 3 + 2 * tonumber(ARGV[2])

local users = {}
for i = 3, first_other - 1, 2 do
  users[#users + 1] = ARGV[i]
end
for i = first_other, #ARGV, 5 do
  users[#users + 1] = ARGV[i]
end
local found = redis.call('HMGET', KEYS[3], unpack(users))

-- An entry is couponKey:TYPE:value:time:status. Strings are created only for the new entries: creating those that are
-- compared would cost a quarter of the script.
local COLON, PENDING, COMPLETED = string.byte(':'), ':PENDING', ':COMPLETED'
local function has_status(entry, coupon, status)
  return entry and string.find(entry, coupon, 1, true) == 1 and string.byte(entry, #coupon + 1) == COLON
    and string.find(entry, status, -#status, true)
end
local function without_status(entry)
  return string.sub(entry, 1, -#PENDING)
end
local function item_of(entry)
  return string.match(entry, '^[^:]+:[^:]+:[^:]+')
end

local fields, requeued, replacements = {}, {}, {}
local completed, cancelled, voided = 0, 0, 0
for i = 3, first_other - 1, 2 do
  local entry = found[(i - 1) / 2]
  if has_status(entry, ARGV[i + 1], PENDING) then
    completed = completed + 1
    fields[2 * completed - 1], fields[2 * completed] = ARGV[i], without_status(entry) .. 'COMPLETED'
  end
end

local entries, changed = {}, {}
for i = first_other, #ARGV, 5 do
  entries[ARGV[i]] = found[(first_other - 3) / 2 + (i - first_other) / 5 + 1]
end
for i = first_other, #ARGV, 5 do
  local user, coupon, status, requeue, replacement = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local entry = entries[user]
  if status == 'VOIDED' and has_status(entry, coupon, COMPLETED) then
    entries[user] = string.sub(entry, 1, -#COMPLETED) .. status
    voided = voided + 1
    changed[user] = true
  elseif has_status(entry, coupon, PENDING) then
    if status == 'VOIDED' then
      entries[user] = without_status(entry) .. status
      completed, voided = completed + 1, voided + 1
    elseif status == 'COMPLETED' then
      entries[user] = without_status(entry) .. 'COMPLETED'
      completed = completed + 1
    elseif status == 'REPLACE' then
      entries[user] = replacement
      completed = completed + 1
      replacements[#replacements + 1] = item_of(replacement)
    else
      entries[user] = without_status(entry) .. 'CANCEL'
      cancelled = cancelled + 1
    end
    changed[user] = true
    if requeue == '1' then
      requeued[#requeued + 1] = item_of(entry)
    end
  end
end
for user in pairs(changed) do
  fields[#fields + 1] = user
  fields[#fields + 1] = entries[user]
end

if #fields > 0 then
  -- Redis does not roll back a failed script, so no write below may fail after the first one.
  local all_completed, all_cancelled = tonumber(meta[2]) + completed, tonumber(meta[3]) + cancelled
  local withheld = tonumber(meta[4] or 0) + cancelled - #requeued
  local denied = not redis.acl_check_cmd('HSET', KEYS[1]) and 'HSET'
  if #requeued > 0 or #replacements > 0 then
    redis.call('LLEN', KEYS[2])
    denied = denied or (#requeued > 0 and not redis.acl_check_cmd('RPUSH', KEYS[2]) and 'RPUSH')
    denied = denied or (#replacements > 0 and not redis.acl_check_cmd('LREM', KEYS[2]) and 'LREM')
  end
  if denied then
    return redis.error_reply('NOPERM no permissions to run ' .. denied)
  end
  redis.call('HSET', KEYS[3], unpack(fields))
  if #requeued > 0 then
    redis.call('RPUSH', KEYS[2], unpack(requeued))
  end
  -- Scans all of the queue; only for the few users for whom Redis and the database differ.
  for _, item in ipairs(replacements) do
    withheld = withheld + redis.call('LREM', KEYS[2], 0, item)
  end
  redis.call('HSET', KEYS[1], 'completed', all_completed, 'cancelled', all_cancelled, 'withheld', withheld,
    'voided', tonumber(meta[5] or 0) + voided)
end
return { completed, cancelled, #requeued, voided }
