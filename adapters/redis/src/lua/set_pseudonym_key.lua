#!lua flags=allow-oom
-- Stores the key with which issue.lua recognizes requests of erased users. Idempotent.
--
-- KEYS  1 couponMeta
-- ARGV  1 uid   2 the key of the pseudonyms
-- returns 1, or nil if couponMeta does not exist or has another uid

if redis.call('HGET', KEYS[1], 'uid') ~= ARGV[1] then
  return false
end
redis.call('HSET', KEYS[1], 'pseudonymKey', ARGV[2])
return 1
