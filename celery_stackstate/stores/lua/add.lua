-- KEYS: entry, index, expiry, and perhaps the guard. ARGV: member, delta, ttl, expires, floor, ceiling ('' for none),
-- 1 to prolong (else 0), and with a guard its version. Answers {'ok', new}, {'type'}, {'range', standing} or {'guard'}.
local now, old = clock(), load(KEYS[1])
if not guarded(KEYS[4], ARGV[8], now) then return {'guard'} end
local live = is_live(old, now)
if live and old[KIND] ~= 'i' then return {'type'} end
local standing = live and old[VALUE] or '0'
if not live and old[VALUE] then redis.call('HSET', KEYS[1], 'v', '0') end

-- HINCRBY is the only exact int64 arithmetic here, so try, compare, and undo.
local tried = redis.pcall('HINCRBY', KEYS[1], 'v', ARGV[2])
local new, fits = standing, type(tried) == 'number'
if fits then
  new = redis.call('HGET', KEYS[1], 'v')
  fits = not (ARGV[5] ~= '' and less(new, ARGV[5])) and not (ARGV[6] ~= '' and less(ARGV[6], new))
elseif not string.find(tried.err or '', 'overflow', 1, true) then
  return tried
end
if not fits then
  if live then
    redis.call('HSET', KEYS[1], 'v', standing)
  else
    redis.call('HDEL', KEYS[1], 'v')
  end
  return {'range', standing}
end
local expires, linger = old[EXPIRES], old[LINGER]
if not live then linger = '0' end
if not live or ARGV[7] == '1' then expires = end_of(now, ARGV[3], ARGV[4]) end
save(KEYS[1], KEYS[2], KEYS[3], ARGV[1], old, now, 'i', new, expires, linger)
return {'ok', new}
