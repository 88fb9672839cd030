#!lua
-- Issues at most one coupon to each of many users, in one atomic step.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued   4 couponOutbox
-- ARGV  the userIds, each once, at most 3,000
-- returns nil if the event is unknown, otherwise
--   1 the state of the window: OPEN, NOT_STARTED, ENDED or PAUSED; or UNVERIFIED without entries if this Redis is not
--     verified, or not a master
--   2 uid
--   3 the time of coupons that this call issues, in milliseconds since the Unix epoch
--   4 acknowledge: Redis or Kafka
--   5 for each user the existing entry, or nil; that of an erased user always as VOIDED
--   6 the issued stock items, in the order of the admitted users without an entry; if there are fewer of them, no more
--     coupons are available
--   7 the id of the outbox entry with the issued coupons, or nil
--   8 the incarnation of the outbox (outbox_state.lua), or nil
--   9 the id of the installation, or nil or empty if it is not known
--  10 the validity of the coupons, or nil or empty if it is unlimited
--  11 if coupons are available, but some users are not admitted yet: for each user when that is, or nil
--  12 when the next coupons become available that are held back, or nil
--
-- Redis does not roll back a failed script, so no write may fail after the first one. The shebang line makes Redis
-- check memory, disk and role before the script runs. Reading the keys checks their types, and XADD, which is the first
-- write, checks its own key, id and permission. The permissions of the other writes are checked before it.

local UUID = '^%x+%-%x+%-%x+%-%x+%-%x+$'

if #ARGV > 3000 then
  return redis.error_reply('ERR at most 3,000 users can be served at once')
end
local meta = redis.call('HMGET', KEYS[1], 'uid', 'gate', 'start', 'end', 'acknowledge', 'replicationId', 'issuedAtMin',
  'recoveryId', 'installation', 'validity', 'pseudonymKey', 'rampSeconds', 'admissionKey', 'drops')
local uid, gate, starts, ends, replication_id = meta[1], meta[2], tonumber(meta[3]), tonumber(meta[4]), meta[6]
if not uid then
  return false
end
-- The replication id changes with each restart and failover: earlier issuances may be missing in this Redis. A
-- master that was demoted keeps its replication id until it has found its own master, and may be writable.
local info = redis.call('INFO', 'replication')
if not replication_id or not string.find(info, '\nmaster_replid:' .. replication_id .. '\r\n', 1, true)
  or not string.find(info, '\nrole:master\r\n', 1, true) then
  return { 'UNVERIFIED', uid, 0, meta[5], {}, {}, false, false, meta[9], meta[10], {}, false }
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- The same precedence as in libs/domain/src/window.rs: first the end, then the start, then a pause.
local state = 'OPEN'
if gate == 'CLOSED' or (ends and now >= ends) then
  state = 'ENDED'
elseif gate == 'LOADING' or (starts and now < starts) then
  state = 'NOT_STARTED'
elseif gate == 'PAUSED' then
  state = 'PAUSED'
elseif gate ~= 'OPEN' or not (starts or meta[3] == '') or not (ends or meta[4] == '') then
  -- Otherwise a lost or damaged field would open the gate.
  return redis.error_reply('ERR couponMeta has no valid gate, start or end')
elseif not string.find(uid, UUID) or (meta[5] ~= 'Redis' and meta[5] ~= 'Kafka') then
  -- Otherwise coupons would be issued whose record cannot be sent, or that cannot be returned.
  return redis.error_reply('ERR couponMeta has no valid uid or acknowledge')
end

local CANCELLED = ':CANCEL'
local entries = redis.call('HMGET', KEYS[3], unpack(ARGV))
local without_coupon, is_cancelled = {}, {}
for i, entry in ipairs(entries) do
  if entry and string.sub(entry, -#CANCELLED) == CANCELLED then
    entries[i] = false
    is_cancelled[i] = true
  end
  if not entries[i] then
    without_coupon[#without_coupon + 1] = i
  end
end

-- Cannot be computed without the key: see libs/domain/src/hash.rs.
local function keyed_sha1(key, text)
  return redis.sha1hex(key .. redis.sha1hex(key .. text))
end

-- Erased users have their entry under a pseudonym (erase_user.lua). Their coupons cannot be used any more.
local pseudonym_key = meta[11]
if pseudonym_key and #without_coupon > 0 then
  local pseudonyms, others = {}, {}
  for j, i in ipairs(without_coupon) do
    pseudonyms[j] = 'erased:' .. keyed_sha1(pseudonym_key, ARGV[i])
  end
  local erased = redis.call('HMGET', KEYS[3], unpack(pseudonyms))
  for j, i in ipairs(without_coupon) do
    local entry = erased[j]
    if entry and string.sub(entry, -#CANCELLED) ~= CANCELLED then
      entries[i] = (string.match(entry, '^(.*:)') or '') .. 'VOIDED'
    else
      others[#others + 1] = i
    end
  end
  without_coupon = others
end

-- Coupons are available now or later, and users are admitted now or later, by the same rules as in
-- libs/domain/src/release.rs and libs/domain/src/admission.rs. A lost or damaged field must not release them early.
local admitted, count, waits, next_drop = without_coupon, #without_coupon, {}, false
if state == 'OPEN' and count > 0 then
  local ramp, key, drops = meta[12] or '', meta[13] or '', meta[14] or ''
  local held_back, parsed = 0, 1
  for first, at, drop_count, following in string.gmatch(drops, '()(%d+):(%d+),()') do
    if first == parsed then
      parsed = following
    end
    if tonumber(at) > now then
      held_back = held_back + tonumber(drop_count)
      next_drop = next_drop or tonumber(at)
    end
  end
  local has_ramp = ramp ~= '' or key ~= ''
  if parsed ~= #drops + 1
    or (has_ramp and not (starts and string.find(ramp, '^%d+$') and string.find(key, '^%x+$') and #key == 64)) then
    return redis.error_reply('ERR couponMeta has no valid rampSeconds, admissionKey or drops')
  end
  local is_ramp = has_ramp and now < starts + ramp * 1000
  if is_ramp or next_drop then
    local available = math.max(redis.call('LLEN', KEYS[2]) - held_back, 0)
    if is_ramp and available > 0 then
      admitted = {}
      for _, i in ipairs(without_coupon) do
        -- 13 digits in two parts: some platforms read at most 32 bits at once.
        local hash = keyed_sha1(key, ARGV[i])
        local ticket = tonumber(string.sub(hash, 1, 6), 16) * 2^28 + tonumber(string.sub(hash, 7, 13), 16)
        local admitted_at = starts + math.floor(ticket / 2^52 * (ramp * 1000))
        if now < admitted_at then
          waits[i] = admitted_at
        else
          admitted[#admitted + 1] = i
        end
      end
      -- A reply ends at the first nil of a table.
      for i = 1, next(waits) and #ARGV or 0 do
        waits[i] = waits[i] or false
      end
    end
    count = math.min(#admitted, available)
  end
end

-- The database rejects records with an earlier time than the record cutoff (mark_verified.lua).
local issued_at = math.max(now, tonumber(meta[7]) or 0)
local items, outbox_id, incarnation = {}, false, false
if state == 'OPEN' and count > 0 then
  -- One more than needed shows whether others are left.
  items = redis.call('LRANGE', KEYS[2], 0, count)
  local sells_out = #items <= count
  if not sells_out then
    items[#items] = nil
  end
  if #items > 0 then
    local pending = string.format(':%.0f:PENDING', issued_at)
    local fields, replaced = {}, 0
    for j, item in ipairs(items) do
      local i = admitted[j]
      fields[2 * j - 1], fields[2 * j] = ARGV[i], item .. pending
      if is_cancelled[i] then
        replaced = replaced + 1
      end
    end
    local changes = {}
    if replaced > 0 then
      changes = { 'cancelled', tonumber(redis.call('HGET', KEYS[1], 'cancelled')) - replaced }
    end
    if sells_out then
      changes[#changes + 1], changes[#changes + 2] = 'soldOutAt', string.format('%.0f', now)
    end
    if not redis.acl_check_cmd('HSET', KEYS[3]) or not redis.acl_check_cmd('LTRIM', KEYS[2])
      or (#changes > 0 and not redis.acl_check_cmd('HSET', KEYS[1])) then
      return redis.error_reply('NOPERM no permissions to run HSET or LTRIM')
    end

    outbox_id = redis.call('XADD', KEYS[4], '*', 'uid', uid, 'records', table.concat(fields, '\n'))
    redis.call('HSET', KEYS[3], unpack(fields))
    redis.call('LTRIM', KEYS[2], #items, -1)
    if #changes > 0 then
      redis.call('HSET', KEYS[1], unpack(changes))
    end
    incarnation = replication_id .. ':' .. (meta[8] or '')
  end
end

return { state, uid, issued_at, meta[5], entries, items, outbox_id, incarnation, meta[9], meta[10], waits,
  next_drop }
