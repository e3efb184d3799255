-- ARGV: base, then for each write: run id, rank ('' without a standing), 6 facts, 8 standing columns ('' for none, else
-- '+' and the value), number of events, uid and payload of each, number of logs, field, order and payload of each.
local now, base, at = clock(), ARGV[1], 1

local function take()
  at = at + 1
  return ARGV[at]
end

local function take_columns(names)
  local columns = {}
  for _, name in ipairs(names) do
    local value = take()
    if value ~= '' then columns[name] = string.sub(value, 2) end
  end
  return columns
end

local function merged(old, rank, facts, standing)
  local new = {}
  for field, value in pairs(old) do new[field] = value end
  for field, value in pairs(facts) do new[field] = new[field] or value end
  if rank ~= '' and (not old.R or tonumber(rank) >= tonumber(old.R)) then
    for _, field in ipairs(STANDING) do new[field] = standing[field] end
    new.R = rank
  end
  new.s, new.n = new.s or 'QUEUED', new.n or '0'
  new.L = new.c or old.L or now
  return new
end

local function save_hash(key, old, new)
  local set, drop = {}, {}
  for field, value in pairs(new) do
    if old[field] ~= value then set[#set + 1], set[#set + 2] = field, value end
  end
  for field in pairs(old) do
    if not new[field] then drop[#drop + 1] = field end
  end
  if #set > 0 then redis.call('HSET', key, unpack(set)) end
  if #drop > 0 then redis.call('HDEL', key, unpack(drop)) end
end

local function save_index(run_id, old, new)
  local moved = old.L ~= new.L
  if moved and old.L then unindex(base, run_id, old) end
  local member = place(new.L, run_id)
  if moved then redis.call('ZADD', base .. 'x:all', 0, member) end
  for _, field in ipairs(INDEXED) do
    if moved or old[field] ~= new[field] then
      local index = base .. 'x:' .. field .. ':'
      if not moved and old[field] then redis.call('ZREM', index .. old[field], member) end
      if new[field] then
        redis.call('ZADD', index .. new[field], 0, member)
        if NAMED[field] then redis.call('ZADD', base .. 'names:' .. field, 0, new[field]) end
      end
    end
  end
  if old.g ~= new.g then
    if new.g then
      redis.call('ZADD', base .. 'forget', new.g, run_id)
    else
      redis.call('ZREM', base .. 'forget', run_id)
    end
  end
end

while at < #ARGV do
  local run_id, rank = take(), take()
  local facts, standing = take_columns(FACTS), take_columns(STANDING)
  local key = base .. 'r:' .. run_id
  local old = as_table(redis.call('HGETALL', key))
  local new = merged(old, rank, facts, standing)
  save_hash(key, old, new)
  save_index(run_id, old, new)
  for _ = 1, tonumber(take()) do
    local uid, payload, events = take(), take(), base .. 'v:' .. run_id
    if redis.call('HEXISTS', events, uid) == 0 then
      redis.call('HSET', events, uid, redis.call('HLEN', events) .. ':' .. payload)
    end
  end
  for _ = 1, tonumber(take()) do
    local field, order, payload = take(), take(), take()
    if redis.call('HSETNX', base .. 'l:' .. run_id, field, payload) == 1 then
      redis.call('ZADD', base .. 'o:' .. run_id, 0, order)
    end
  end
end
return 1
