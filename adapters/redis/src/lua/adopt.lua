#!lua
-- Notes that what this Redis holds of the event is whole, so that coupons may be given from it.
--
-- KEYS  1 couponMeta   2 couponQueue   3 couponIssued
-- ARGV  1 uid   2 stock epoch   3 the master_replid of the Redis that was looked at   4 the token that was seen there
--       After a recovery also, else both empty:
--       5 no coupon is issued with an earlier time than this (milliseconds since the Unix epoch)   6 how many coupons are loaded
-- returns 1, or nil when couponMeta is missing, or of another event or stock epoch, or when the Redis or the token is another one;
--   the error NOTWHOLE when the stock does not add up

local meta = redis.call('HMGET', KEYS[1], 'uid', 'stockEpoch', 'token', 'loaded', 'cancelled', 'voided')
local server = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if meta[1] ~= ARGV[1] or meta[2] ~= ARGV[2] or (meta[3] or '') ~= ARGV[4] or server ~= ARGV[3] then
  return false
end
if ARGV[6] ~= '' then
  local given = redis.call('HLEN', KEYS[3]) - tonumber(meta[5])
  local held = redis.call('LLEN', KEYS[2]) + given + tonumber(meta[6] or 0)
  if tonumber(meta[4]) ~= tonumber(ARGV[6]) or held ~= tonumber(ARGV[6]) then
    return redis.error_reply('NOTWHOLE loaded ' .. meta[4] .. ', held ' .. held .. ', wanted ' .. ARGV[6])
  end
  redis.call('HSET', KEYS[1], 'since', ARGV[5])
end
redis.call('HSET', KEYS[1], 'server', server)
return 1
