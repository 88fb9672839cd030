#!lua
-- Creates couponMeta with the gate at LOADING and nothing loaded. Nothing is issued before mark_verified.lua.
-- Idempotent.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued   4 couponOutbox
-- ARGV  1 uid   2 stock epoch   3 a new recovery id   4 the id of the installation, or empty if it is not known
-- returns { uid, stock epoch } of couponMeta: if they differ from the arguments, the name is still in use by another
--   event or stock epoch; the error ORPHANEDKEYS if couponMeta does not exist but other keys of the event do

local meta = redis.call('HMGET', KEYS[1], 'uid', 'stockEpoch')
if meta[1] then
  return meta
end
if redis.call('EXISTS', KEYS[2], KEYS[3], KEYS[4]) > 0 then
  return redis.error_reply('ORPHANEDKEYS couponMeta is missing, but other keys of the event exist')
end
redis.call('HSET', KEYS[1], 'uid', ARGV[1], 'stockEpoch', ARGV[2], 'recoveryId', ARGV[3], 'gate', 'LOADING',
  'acknowledge', 'Redis', 'generation', 0, 'loaded', 0, 'completed', 0, 'cancelled', 0, 'withheld', 0, 'voided', 0,
  'installation', ARGV[4])
return { ARGV[1], ARGV[2] }
