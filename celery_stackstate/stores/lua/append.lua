-- ARGV: base and the writes, see run_append.lua.
append_from(1)
return 1
