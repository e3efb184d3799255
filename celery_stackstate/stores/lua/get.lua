-- KEYS: entries. Answers the clock, then each live entry or false.
local now = clock()
local found = {now}
for i, key in ipairs(KEYS) do
  local entry = load(key)
  found[i + 1] = is_live(entry, now) and shown(entry) or false
end
return found
