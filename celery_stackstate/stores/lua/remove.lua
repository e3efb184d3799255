-- KEYS: entry, index, expiry. ARGV: member, expect. Answers the clock and the removed entry or false.
local now, old = clock(), load(KEYS[1])
local live = is_live(old, now)
if not live or not as_expected(old, live, ARGV[2]) then return {now, false} end
local keep = remembered(old, now)
if keep <= tonumber(now) then
  redis.call('DEL', KEYS[1])
else
  redis.call('HDEL', KEYS[1], 'k', 'v', 'u')
  redis.call('HSET', KEYS[1], 'x', '', 'l', 0, 'p', decimal(keep))
  expire_at(KEYS[1], keep)
end
redis.call('ZREM', KEYS[2], ARGV[1])
if old[EXPIRES] ~= '' then redis.call('ZREM', KEYS[3], ARGV[1]) end
return {now, shown(old)}
