#!lua
-- Gives at most one coupon to each of many users, in one atomic step.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued   4 couponOutbox
-- ARGV  the userIds, each once, at most 3,000
-- returns nil when the event is unknown, else
--   1 verdict: OPEN, NOT_STARTED, ENDED or PAUSED; or UNVERIFIED, without entries: this Redis is not known to be whole
--   2 the event's uid
--   3 when what is given now is issued, in milliseconds since the Unix epoch
--   4 acknowledge: Redis or Kafka
--   5 for each user the entry that they already hold, or nil
--   6 the stock items given, in the order of the users without an entry; fewer than these users: sold out
--   7 the id of the outbox entry with what was given, or nil
--
-- Redis does not undo what a failed script wrote. So all that can be refused is refused before the first write: the first
-- line makes Redis check memory, disk and role at the start, and the stock holds only items that load.lua wrote.

local meta = redis.call('HMGET', KEYS[1], 'uid', 'gate', 'start', 'end', 'acknowledge', 'server', 'since')
local uid, gate, starts, ends = meta[1], meta[2], tonumber(meta[3]), tonumber(meta[4])
if not uid then
  return false
end
-- Another one after each restart and each failover: what was answered last may be missing here.
if meta[6] ~= string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') then
  return { 'UNVERIFIED', uid, 0, meta[5], {}, {}, false }
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- The same order as domain::window: the end outranks everything, then the start, then a pause.
local verdict = 'OPEN'
if gate == 'CLOSED' or (ends and now >= ends) then
  verdict = 'ENDED'
elseif gate == 'LOADING' or (starts and now < starts) then
  verdict = 'NOT_STARTED'
elseif gate == 'PAUSED' then
  verdict = 'PAUSED'
end

local CANCELLED = ':CANCEL'
local entries = redis.call('HMGET', KEYS[3], unpack(ARGV))
local seekers, cancelled = {}, {}
for i, entry in ipairs(entries) do
  if entry and string.sub(entry, -#CANCELLED) == CANCELLED then
    entries[i] = false
    cancelled[i] = true
  end
  if not entries[i] then
    seekers[#seekers + 1] = i
  end
end

-- What is issued before the last recovery, the database takes no more (adopt.lua).
local issued_at = math.max(now, tonumber(meta[7]) or 0)
local given, outbox_id = {}, false
if verdict == 'OPEN' and #seekers > 0 then
  given = redis.call('LPOP', KEYS[2], #seekers) or {}
  if #given > 0 then
    local pending = string.format(':%.0f:PENDING', issued_at)
    local fields, replaced = {}, 0
    for j, item in ipairs(given) do
      local i = seekers[j]
      fields[2 * j - 1], fields[2 * j] = ARGV[i], item .. pending
      if cancelled[i] then
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

return { verdict, uid, issued_at, meta[5], entries, given, outbox_id }
