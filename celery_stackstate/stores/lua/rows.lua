-- ARGV: base, run ids. Answers a row for each.
local rows = {}
for i = 2, #ARGV do rows[i - 1] = run_row(ARGV[1], ARGV[i]) end
return rows
