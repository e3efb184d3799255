-- Runs to write, in ARGV from `at` on: base, how many of the oldest events are kept always, then for each write: run id,
-- rank ('' without a standing), 10 facts, 9 standing columns ('' for none, else '+' and the value), number of events, uid
-- and payload of each, number of logs, field and payload of each, number of dropped ranges, execution and first and last
-- number (8 bytes) of each, most events, most logs ('' for all).
local now, at, base = clock()

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

-- The higher rank wins, of equal ones the later forget.
local function wins(old, rank, forget)
  if rank == '' or not old.R then return rank ~= '' end
  if tonumber(rank) ~= tonumber(old.R) then return tonumber(rank) > tonumber(old.R) end
  return not old.g or (forget and not less(forget, old.g))
end

local function merged(old, rank, facts, standing)
  local new = {}
  for field, value in pairs(old) do new[field] = value end
  for field, value in pairs(facts) do new[field] = new[field] or value end
  if wins(old, rank, standing.g) then
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
      if not moved and old[field] then leave(base, field, old[field], member) end
      if new[field] then enter(base, field, new[field], member) end
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

local function take_events(run_id)
  for _ = 1, tonumber(take()) do
    local uid, payload = take(), take()
    redis.call('HSETNX', base .. 'v:' .. run_id, uid, payload)
  end
end

local function take_lines(run_id)
  for _ = 1, tonumber(take()) do
    local field, payload = take(), take()
    if redis.call('HSETNX', base .. 'l:' .. run_id, field, payload) == 1 then
      redis.call('ZADD', base .. 'o:' .. run_id, 0, order_of(field, payload))
    end
  end
end

local function append_from(first)
  at = first - 1
  base = take()
  local oldest = tonumber(take())
  while at < #ARGV do
    local run_id, rank = take(), take()
    local facts, standing = take_columns(FACTS), take_columns(STANDING)
    local key = base .. 'r:' .. run_id
    local old = as_table(redis.call('HGETALL', key))
    local new = merged(old, rank, facts, standing)
    save_hash(key, old, new)
    save_index(run_id, old, new)
    take_events(run_id)
    take_lines(run_id)
    for _ = 1, tonumber(take()) do drop_lines(base, run_id, take(), take(), take()) end
    local most_events, most_logs = take(), take()
    if most_events ~= '' then keep_events(base, run_id, tonumber(most_events), oldest) end
    if most_logs ~= '' then keep_lines(base, run_id, tonumber(most_logs)) end
  end
end
