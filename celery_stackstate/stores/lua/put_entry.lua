-- KEYS: entry, index, expiry. ARGV: member, kind, value, expect, ttl, expires, linger. Answers the clock, whether it was
-- applied (2: the guard failed), and the entry or false.
local function put_entry(guard, version)
  local now, old = clock(), load(KEYS[1])
  if not guarded(guard, version, now) then return {now, 2, false} end
  local live = is_live(old, now)
  if not as_expected(old, live, ARGV[4]) then
    return {now, 0, live and shown(old) or false}
  end
  local expires = end_of(now, ARGV[5], ARGV[6])
  return {now, 1, save(KEYS[1], KEYS[2], KEYS[3], ARGV[1], old, now, ARGV[2], ARGV[3], expires, ARGV[7])}
end
