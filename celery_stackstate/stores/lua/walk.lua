-- Walk the smallest index that serves the filters, page by page, checking the other filters on each run.
-- ARGV: base, order ('asc' or 'desc'), from, to, skip, limit, 'rows' or 'count', most members to look at,
-- then field and value of each filter. Answers where to go on or false, what is left to skip, how many were taken, and
-- of each the run id and the row.
local base, order, from, to, skip = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local limit, want_rows, budget = tonumber(ARGV[6]), ARGV[7] == 'rows', tonumber(ARGV[8])

local index, smallest, served = base .. 'x:all', nil, nil
for i = 9, #ARGV, 2 do
  local candidate = base .. 'x:' .. ARGV[i] .. ':' .. ARGV[i + 1]
  local size = redis.call('ZCARD', candidate)
  if not smallest or size < smallest then index, smallest, served = candidate, size, i end
end
local fields, values = {}, {}
for i = 9, #ARGV, 2 do
  if i ~= served then fields[#fields + 1], values[#values + 1] = ARGV[i], ARGV[i + 1] end
end

local function fits(run_id)
  if #fields == 0 then return true end
  for i, value in ipairs(redis.call('HMGET', base .. 'r:' .. run_id, unpack(fields))) do
    if value ~= values[i] then return false end
  end
  return true
end

if not want_rows and #fields == 0 then
  local low, high = from, to
  if order == 'desc' then low, high = to, from end
  return {false, 0, math.min(limit, redis.call('ZLEXCOUNT', index, low, high))}
end

local command = order == 'asc' and 'ZRANGEBYLEX' or 'ZREVRANGEBYLEX'
local found, taken = {false, 0, 0}, 0
while taken < limit do
  local members = redis.call(command, index, from, to, 'LIMIT', 0, 200)
  for _, member in ipairs(members) do
    local run_id = string.sub(member, 9)
    if taken < limit and fits(run_id) then
      if skip > 0 then
        skip = skip - 1
      else
        taken = taken + 1
        if want_rows then found[#found + 1], found[#found + 2] = run_id, run_row(base, run_id) end
      end
    end
    from = '(' .. member
  end
  budget = budget - #members
  if #members < 200 then break end
  if budget <= 0 and taken < limit then
    found[1] = from
    break
  end
end
found[2], found[3] = skip, taken
return found
