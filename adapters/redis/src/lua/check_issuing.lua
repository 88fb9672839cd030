#!lua
-- Checks whether Redis would accept the writes of issue.lua, without writing anything. The shebang line makes Redis
-- check memory, disk, role and replicas before the script runs, as for issue.lua. Runs alone, or followed by
-- observe.lua.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued   4 couponOutbox; or none, to check the server alone
-- returns nil, or the error with which issue.lua would fail

for i, command in ipairs({ 'HSET', 'LTRIM', 'HSET', 'XADD' }) do
  if KEYS[i] and not redis.acl_check_cmd(command, KEYS[i]) then
    return redis.error_reply('NOPERM no permissions to run ' .. command)
  end
end
