-- KEYS: index, expiry. ARGV: base of entry keys, limit. Answers how many ended entries were dropped.
-- The hash itself ends by its own clock, later where its version is remembered; its value goes now.
local now = clock()
local members = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[2])
for _, member in ipairs(members) do
  local key = ARGV[1] .. member
  if not is_live(load(key), now) then
    redis.call('HDEL', key, 'v')
    redis.call('ZREM', KEYS[1], member)
  end
  redis.call('ZREM', KEYS[2], member)
end
return #members
