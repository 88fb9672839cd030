#!lua flags=allow-oom
-- Replaces a user by a pseudonym, and stores the key with which issue.lua recognizes later requests of this user.
-- Idempotent.
--
-- KEYS  1 couponMeta   2 couponIssued
-- ARGV  1 uid   2 userId   3 the pseudonym   4 the key of the pseudonyms
-- returns 1 if the user was replaced, now or before; 0 if Redis has no entry of the user; -1 if the entry is PENDING,
--   because its record is expected under the userId; nil if couponMeta does not exist or has another uid

if redis.call('HGET', KEYS[1], 'uid') ~= ARGV[1] then
  return false
end
local entries = redis.call('HMGET', KEYS[2], ARGV[2], ARGV[3])
if entries[1] and string.find(entries[1], ':PENDING', -8, true) then
  return -1
end
if not entries[1] and not entries[2] then
  return 0
end
-- Redis does not roll back a failed script, so no write below may fail after the first one.
if not redis.acl_check_cmd('HSET', KEYS[2]) or not redis.acl_check_cmd('HDEL', KEYS[2]) then
  return redis.error_reply('NOPERM no permissions to run HSET or HDEL')
end
redis.call('HSET', KEYS[1], 'pseudonymKey', ARGV[4])
if entries[1] then
  redis.call('HSET', KEYS[2], ARGV[3], entries[1])
  redis.call('HDEL', KEYS[2], ARGV[2])
end
return 1
