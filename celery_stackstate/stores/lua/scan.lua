-- KEYS: index, expiry. ARGV: base of entry keys, from, to, limit, most members to look at.
-- Answers the clock, the member to go on from or false, and member, entry, member, entry...
-- Members whose entries have ended are dropped on the way, so that no later scan pays for them.
local now, from, limit, budget = clock(), ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local found, count = {now, false}, 0
while true do
  local members = redis.call('ZRANGEBYLEX', KEYS[1], from, ARGV[3], 'LIMIT', 0, math.min(limit - count, 500))
  for _, member in ipairs(members) do
    local entry = load(ARGV[1] .. member)
    if is_live(entry, now) then
      found[#found + 1], found[#found + 2] = member, shown(entry)
      count = count + 1
    else
      redis.call('ZREM', KEYS[1], member)
      redis.call('ZREM', KEYS[2], member)
    end
    from = '(' .. member
  end
  budget = budget - #members
  if #members == 0 or count >= limit then return found end
  if budget <= 0 then
    found[2] = from
    return found
  end
end
