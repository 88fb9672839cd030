#!lua
-- Makes an event's couponMeta, with the gate at LOADING and nothing loaded. Nothing is given before adopt.lua. Done again, it changes nothing.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued   4 couponOutbox
-- ARGV  1 uid   2 stock epoch   3 a token: another one for each making
-- returns { uid, stock epoch } that couponMeta belongs to: others than those asked for mean that the name is still taken;
--   the error LEFTOVER when there is no couponMeta, but stock or issued coupons of nobody knows which event

local meta = redis.call('HMGET', KEYS[1], 'uid', 'stockEpoch')
if meta[1] then
  return meta
end
if redis.call('EXISTS', KEYS[2], KEYS[3], KEYS[4]) > 0 then
  return redis.error_reply('LEFTOVER couponMeta is missing, but other keys of the event are there')
end
redis.call('HSET', KEYS[1], 'uid', ARGV[1], 'stockEpoch', ARGV[2], 'token', ARGV[3], 'gate', 'LOADING', 'acknowledge', 'Redis', 'generation', 0, 'loaded', 0, 'completed', 0, 'cancelled', 0,
  'voided', 0)
return { ARGV[1], ARGV[2] }
