-- A run is a hash of one-letter fields: facts t (task), q (queue), k (key), p (parent), o (root), u (group), h (host),
-- i (origin), c (created), y (duplicated); standing s (status), w (worker), n (retries), d (waited), b (begun), f (finished), e (error),
-- g (forget), m (progress); R (rank) and L (the time it is listed by). Each index is a ZSET of place .. run id, all with score 0.
-- Its events are the hash v:, uid to time (8 bytes) .. the rest. Its log lines are the hash l:, number (8 bytes) ..
-- execution to time (8 bytes) .. the rest, and the ZSET o: of time .. execution .. a zero byte .. number.
local FACTS = {'t', 'q', 'k', 'p', 'o', 'u', 'h', 'i', 'c', 'y'}
local STANDING = {'s', 'w', 'n', 'd', 'b', 'f', 'e', 'g', 'm'}
local INDEXED = {'s', 't', 'w', 'q', 'k', 'p', 'o', 'u', 'h', 'i', 'y'}
local NAMED = {t = true, w = true, q = true, h = true}

-- As one text: twenty answers for each row of a page take a client longer to read than the server to find.
local function run_row(base, run_id)
  return cjson.encode(redis.call('HMGET', base .. 'r:' .. run_id,
    'R', 't', 'q', 'k', 'p', 'o', 'u', 'h', 'i', 'L', 'y', 's', 'w', 'n', 'd', 'b', 'f', 'e', 'g', 'm'))
end

local function place(listed, run_id)
  return struct.pack('>I8', math.max(0, tonumber(listed))) .. run_id
end

local function enter(base, field, value, member)
  redis.call('ZADD', base .. 'x:' .. field .. ':' .. value, 0, member)
  if NAMED[field] then redis.call('ZADD', base .. 'names:' .. field, 0, value) end
end

-- With the last run of a name the name goes.
local function leave(base, field, value, member)
  local index = base .. 'x:' .. field .. ':' .. value
  redis.call('ZREM', index, member)
  if NAMED[field] and redis.call('EXISTS', index) == 0 then redis.call('ZREM', base .. 'names:' .. field, value) end
end

local function unindex(base, run_id, run)
  local member = place(run.L, run_id)
  redis.call('ZREM', base .. 'x:all', member)
  for _, field in ipairs(INDEXED) do
    if run[field] then leave(base, field, run[field], member) end
  end
end

local function as_table(pairs_of)
  local run = {}
  for i = 1, #pairs_of, 2 do run[pairs_of[i]] = pairs_of[i + 1] end
  return run
end

-- Deletes a run with everything of it; returns how many there were, 0 or 1.
local function delete_run(base, run_id)
  local run = as_table(redis.call('HGETALL', base .. 'r:' .. run_id))
  if run.L then unindex(base, run_id, run) end
  for _, kind in ipairs({'r:', 'v:', 'l:', 'o:'}) do redis.call('UNLINK', base .. kind .. run_id) end
  redis.call('ZREM', base .. 'forget', run_id)
  return run.L and 1 or 0
end
