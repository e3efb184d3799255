-- KEYS: forget. ARGV: base, limit. Deletes forgotten runs with everything of them; answers how many.
local base = ARGV[1]
local forgotten = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', clock(), 'LIMIT', 0, ARGV[2])
for _, run_id in ipairs(forgotten) do
  local run = as_table(redis.call('HGETALL', base .. 'r:' .. run_id))
  if run.L then unindex(base, run_id, run) end
  for _, kind in ipairs({'r:', 'v:', 'l:', 'o:'}) do redis.call('UNLINK', base .. kind .. run_id) end
  redis.call('ZREM', KEYS[1], run_id)
end
return #forgotten
