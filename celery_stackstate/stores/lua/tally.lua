-- Count runs by task and status, newest first. ARGV: base, from, to, most members to look at.
-- Answers where to go on or false, how many were looked at, and of each task ('' for none, else '+' and its name) and
-- status the number.
local base, from, budget = ARGV[1], ARGV[2], tonumber(ARGV[4])
local looked, counts, last = 0, {}, false
while looked < budget and not last do
  local wanted = math.min(200, budget - looked)
  local members = redis.call('ZREVRANGEBYLEX', base .. 'x:all', from, ARGV[3], 'LIMIT', 0, wanted)
  for _, member in ipairs(members) do
    local run = redis.call('HMGET', base .. 'r:' .. string.sub(member, 9), 't', 's')
    local task, status = run[1] and '+' .. run[1] or '', run[2] or ''
    counts[task] = counts[task] or {}
    counts[task][status] = (counts[task][status] or 0) + 1
    from = '(' .. member
  end
  looked, last = looked + #members, #members < wanted
end
local found = {not last and from, looked}
for task, statuses in pairs(counts) do
  for status, number in pairs(statuses) do
    found[#found + 1], found[#found + 2], found[#found + 3] = task, status, number
  end
end
return found
