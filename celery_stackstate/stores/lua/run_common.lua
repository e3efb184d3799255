-- A run is a hash of one-letter fields: facts t (task), q (queue), k (key), p (parent), o (root), c (created);
-- standing s (status), w (worker), n (retries), d (waited), b (begun), f (finished), e (error), g (forget);
-- R (rank) and L (the time it is listed by). Each index is a ZSET of place .. run id, all with score 0.
local FACTS = {'t', 'q', 'k', 'p', 'o', 'c'}
local STANDING = {'s', 'w', 'n', 'd', 'b', 'f', 'e', 'g'}
local INDEXED = {'s', 't', 'w', 'q', 'k', 'p', 'o'}
local NAMED = {t = true, w = true, q = true}

local function run_row(base, run_id)
  return redis.call('HMGET', base .. 'r:' .. run_id,
    'R', 't', 'q', 'k', 'p', 'o', 'L', 's', 'w', 'n', 'd', 'b', 'f', 'e', 'g')
end

local function place(listed, run_id)
  return struct.pack('>I8', math.max(0, tonumber(listed))) .. run_id
end

local function unindex(base, run_id, run)
  local member = place(run.L, run_id)
  redis.call('ZREM', base .. 'x:all', member)
  for _, field in ipairs(INDEXED) do
    if run[field] then redis.call('ZREM', base .. 'x:' .. field .. ':' .. run[field], member) end
  end
end

local function as_table(pairs_of)
  local run = {}
  for i = 1, #pairs_of, 2 do run[pairs_of[i]] = pairs_of[i + 1] end
  return run
end
