-- ARGV: base, run ids. Deletes these runs with everything of them; answers how many there were.
local count = 0
for i = 2, #ARGV do count = count + delete_run(ARGV[1], ARGV[i]) end
return count
