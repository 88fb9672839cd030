-- Issues a coupon to one user. KEYS: holders, stock. ARGV: user.
-- Returns the item from the stock, DUPLICATE or SOLD_OUT.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 'DUPLICATE' end
local item = redis.call('LPOP', KEYS[2])
if not item then return 'SOLD_OUT' end
redis.call('HSET', KEYS[1], ARGV[1], item .. ':PENDING')
return item
