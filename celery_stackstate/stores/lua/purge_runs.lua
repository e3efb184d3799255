-- KEYS: forget. ARGV: base, limit. Deletes forgotten runs with everything of them; answers how many.
local forgotten = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', clock(), 'LIMIT', 0, ARGV[2])
for _, run_id in ipairs(forgotten) do delete_run(ARGV[1], run_id) end
return #forgotten
