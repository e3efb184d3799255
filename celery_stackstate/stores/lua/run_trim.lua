-- What takes lines and events from a run: those that were dropped, and what has become too many.

local function order_of(field, payload)
  return string.sub(payload, 1, 8) .. string.sub(field, 9) .. '\0' .. string.sub(field, 1, 8)
end

local function drop_line(base, run_id, field)
  local payload = redis.call('HGET', base .. 'l:' .. run_id, field)
  if payload then
    redis.call('ZREM', base .. 'o:' .. run_id, order_of(field, payload))
    redis.call('HDEL', base .. 'l:' .. run_id, field)
  end
end

-- Drop the lines of an execution whose numbers, each in 8 bytes, lie in a range: those of a short range are looked up
-- one by one, for a long one all lines are looked at. The halves of a number are exact, unlike a number beyond 2^53.
local function drop_lines(base, run_id, execution, first, last)
  local first_high, first_low = struct.unpack('>I4I4', first)
  local last_high, last_low = struct.unpack('>I4I4', last)
  local lines = base .. 'l:' .. run_id
  if first_high == last_high and last_low - first_low < redis.call('HLEN', lines) then
    for low = first_low, last_low do
      drop_line(base, run_id, string.sub(first, 1, 4) .. struct.pack('>I4', low) .. execution)
    end
    return
  end
  for _, field in ipairs(redis.call('HKEYS', lines)) do
    local high, low = struct.unpack('>I4I4', field)
    local inside = (high > first_high or (high == first_high and low >= first_low))
      and (high < last_high or (high == last_high and low <= last_low))
    if inside and string.sub(field, 9) == execution then drop_line(base, run_id, field) end
  end
end

local function keep_lines(base, run_id, most)
  local lines, order = base .. 'l:' .. run_id, base .. 'o:' .. run_id
  local spare = redis.call('ZCARD', order) - most
  if spare <= 0 then return end
  for _, member in ipairs(redis.call('ZRANGE', order, 0, spare - 1)) do
    redis.call('HDEL', lines, string.sub(member, -8) .. string.sub(member, 9, -10))
  end
  redis.call('ZREMRANGEBYRANK', order, 0, spare - 1)
end

-- Whether an event, as its time and uid in bytes and as a number near its time, comes before another. Strings are
-- compared byte by byte: Lua compares whole ones by the locale of the server.
local function precedes(a, b)
  if a.near ~= b.near then return a.near < b.near end
  for i = 1, math.min(#a.place, #b.place) do
    local x, y = string.byte(a.place, i), string.byte(b.place, i)
    if x ~= y then return x < y end
  end
  return #a.place < #b.place
end

-- The first `count` events in order, of uid, payload, uid, payload...
local function oldest_of(stored, count)
  local found = {}
  for i = 1, #stored, 2 do
    local high, low = struct.unpack('>I4I4', stored[i + 1])
    local near = high * 4294967296 + low
    if #found < count or near <= found[count].near then
      local event, at = {near = near, place = string.sub(stored[i + 1], 1, 8) .. stored[i]}, #found
      while at > 0 and precedes(event, found[at]) do at = at - 1 end
      table.insert(found, at + 1, event)
      found[count + 1] = nil
    end
  end
  return found
end

-- Keep the oldest events, so many, and of the others the newest, `most` in all.
local function keep_events(base, run_id, most, oldest)
  local events = base .. 'v:' .. run_id
  local spare = redis.call('HLEN', events) - most
  if spare <= 0 then return end
  oldest = math.min(oldest, most)
  for i, event in ipairs(oldest_of(redis.call('HGETALL', events), oldest + spare)) do
    if i > oldest then redis.call('HDEL', events, string.sub(event.place, 9)) end
  end
end
