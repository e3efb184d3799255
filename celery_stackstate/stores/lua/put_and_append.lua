-- KEYS: entry, index, expiry. ARGV: as put.lua has them, then base and the writes, see run_append.lua. Answers as put.lua.
local answer = put_entry()
if answer[2] == 1 then append_from(8) end
return answer
