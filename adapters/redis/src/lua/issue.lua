#!lua
-- Issues at most one coupon to each of many users, in one atomic step.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued   4 couponOutbox
-- ARGV  the userIds, each once, at most 3,000
-- returns nil if the event is unknown, otherwise
--   1 the state of the window: OPEN, NOT_STARTED, ENDED or PAUSED; or UNVERIFIED without entries if this Redis is not
--     verified
--   2 uid
--   3 the time of coupons that this call issues, in milliseconds since the Unix epoch
--   4 acknowledge: Redis or Kafka
--   5 for each user the existing entry, or nil
--   6 the issued stock items, in the order of the users without an entry; if there are fewer of them, the stock is
--     sold out
--   7 the id of the outbox entry with the issued coupons, or nil
--
-- Redis does not roll back a failed script. Therefore every check precedes the first write: the first line makes Redis
-- check memory, disk and role at the start, and the queue contains only items that load.lua has written.

local meta = redis.call('HMGET', KEYS[1], 'uid', 'gate', 'start', 'end', 'acknowledge', 'replicationId', 'issuedAtMin')
local uid, gate, starts, ends = meta[1], meta[2], tonumber(meta[3]), tonumber(meta[4])
if not uid then
  return false
end
-- The replication id changes with each restart and each failover: coupons that were issued before may be missing here.
if meta[6] ~= string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') then
  return { 'UNVERIFIED', uid, 0, meta[5], {}, {}, false }
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

-- The database rejects records of coupons that were issued before the last recovery (mark_verified.lua).
local issued_at = math.max(now, tonumber(meta[7]) or 0)
local items, outbox_id = {}, false
if state == 'OPEN' and #without_coupon > 0 then
  items = redis.call('LPOP', KEYS[2], #without_coupon) or {}
  if #items > 0 then
    local pending = string.format(':%.0f:PENDING', issued_at)
    local fields, replaced = {}, 0
    for j, item in ipairs(items) do
      local i = without_coupon[j]
      fields[2 * j - 1], fields[2 * j] = ARGV[i], item .. pending
      if is_cancelled[i] then
        replaced = replaced + 1
      end
    end
    redis.call('HSET', KEYS[3], unpack(fields))
    if replaced > 0 then
      redis.call('HINCRBY', KEYS[1], 'cancelled', -replaced)
    end
    outbox_id = redis.call('XADD', KEYS[4], '*', 'uid', uid, 'records', table.concat(fields, '\n'))
  end
end

return { state, uid, issued_at, meta[5], entries, items, outbox_id }
