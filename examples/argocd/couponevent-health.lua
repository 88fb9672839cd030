-- Health of a CouponEvent for Argo CD, which runs this as Lua 5.1 without the libraries for strings and mathematics.
-- To install it, see docs/operate/operations.md.
--
-- Degraded: an administrator has to act. Suspended: an administrator has paused or held the event. Progressing: the
-- operator, or an import of codes, is about to complete it. Healthy: everything else, also before the start and after
-- the end.
--
-- obj      the CouponEvent
-- returns  a table with the fields status and message

local status = obj.status or {}
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local ready, open, stalled, recorded = conditions.Ready, conditions.Open, conditions.Stalled, conditions.Recorded

local function health(name, message)
  return { status = name, message = message }
end

if obj.metadata.deletionTimestamp ~= nil then
  return health('Progressing', 'The event is being deleted.')
end
if ready == nil or open == nil or status.observedGeneration ~= obj.metadata.generation then
  return health('Progressing', 'The operator has not observed the event yet.')
end
if stalled ~= nil and stalled.status == 'True' then
  return health('Degraded', stalled.reason .. ': ' .. stalled.message)
end
if recorded ~= nil and recorded.reason == 'RecordingStalled' then
  return health('Degraded', recorded.reason .. ': ' .. recorded.message)
end
if open.reason == 'Held' or open.reason == 'Paused' then
  return health('Suspended', open.reason .. ': ' .. open.message)
end
if ready.status ~= 'True' then
  return health('Progressing', ready.reason .. ': ' .. ready.message)
end

local states = { Loading = true, Scheduled = true, Open = true, SoldOut = true, Ended = true, Closed = true }
if not states[open.reason] then
  -- Coupons would be issued, but a server is unavailable.
  return health('Degraded', open.reason .. ': ' .. open.message)
end
return health('Healthy', open.reason .. ': ' .. open.message)
