-- Numbers that may pass 2^53 stay decimal strings: a Lua number is a double and would round them.

local function clock()
  local t = redis.call('TIME')
  return t[1] .. string.rep('0', 6 - #t[2]) .. t[2]
end

local function less(a, b)
  local minus_a, minus_b = string.sub(a, 1, 1) == '-', string.sub(b, 1, 1) == '-'
  if minus_a ~= minus_b then return minus_a end
  if minus_a then a, b = string.sub(b, 2), string.sub(a, 2) end
  if #a ~= #b then return #a < #b end
  return a < b
end

local function decimal(number)
  return string.format('%.0f', number)
end

-- An entry is the hash k (kind: i or b; absent in a tombstone), v (value), n (version), x (expires or ''),
-- u (updated), l (linger), p (remember the version at least until).
local KIND, VALUE, VERSION, EXPIRES, UPDATED, LINGER, KEEP = 1, 2, 3, 4, 5, 6, 7

local function load(key)
  return redis.call('HMGET', key, 'k', 'v', 'n', 'x', 'u', 'l', 'p')
end

local function is_live(entry, now)
  return entry[KIND] and (entry[EXPIRES] == '' or tonumber(entry[EXPIRES]) > tonumber(now))
end

local function shown(entry)
  return {entry[KIND], entry[VALUE], entry[VERSION], entry[EXPIRES], entry[UPDATED]}
end

local function as_expected(entry, live, expect)
  if expect == 'any' then return true end
  if expect == 'absent' then return not live end
  return live and entry[VERSION] == expect
end

-- Whether the entry that guards a write, if there is one, is live and has the version it must have.
local function guarded(key, version, now)
  if not key then return true end
  local entry = load(key)
  return is_live(entry, now) and entry[VERSION] == version
end

-- Until when the version of an entry that ends now, or has ended, must be remembered.
local function remembered(entry, now)
  if not entry[VERSION] then return 0 end
  local ended = tonumber(now)
  if entry[KIND] and entry[EXPIRES] ~= '' then ended = math.min(ended, tonumber(entry[EXPIRES])) end
  return math.max(ended + tonumber(entry[LINGER]), tonumber(entry[KEEP]), tonumber(entry[VERSION]) + 1)
end

local function expire_at(key, micros)
  redis.call('PEXPIREAT', key, decimal(math.ceil(micros / 1000) + 1))
end

-- Write an entry. `member` is its key in the index, `expires` is '' or a decimal.
local function save(key, index, expiry, member, old, now, kind, value, expires, linger)
  local version, known = now, old[VERSION]
  if known and not less(known, now) then
    redis.call('HINCRBY', key, 'n', 1)
    version = redis.call('HGET', key, 'n')
  end
  local keep = decimal(remembered(old, now))
  redis.call('HSET', key, 'k', kind, 'v', value, 'n', version, 'x', expires, 'u', now, 'l', linger, 'p', keep)
  local live = is_live(old, now)
  if not live then redis.call('ZADD', index, 0, member) end
  if expires ~= '' then
    redis.call('ZADD', expiry, expires, member)
    expire_at(key, math.max(tonumber(expires) + tonumber(linger), tonumber(keep), tonumber(version) + 1))
  elseif not live or old[EXPIRES] ~= '' then
    -- Also of an entry that has ended so long ago that the server has dropped it: its end would be purged as this one's.
    redis.call('ZREM', expiry, member)
    if known then redis.call('PERSIST', key) end
  end
  return {kind, value, version, expires, now}
end

-- The absolute expiry of `ttl` (relative) or `expires` (absolute), '' for neither. 2^53 - 1 is the last exact double.
local function end_of(now, ttl, expires)
  if ttl ~= '' then return decimal(math.min(tonumber(now) + tonumber(ttl), 9007199254740991)) end
  return expires
end
