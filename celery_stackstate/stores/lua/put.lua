-- KEYS: entry, index, expiry, and perhaps the guard. ARGV: see put_entry.lua, and with a guard its version.
return put_entry(KEYS[4], ARGV[8])
