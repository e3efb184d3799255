-- KEYS: lines, order. ARGV: from, execution ('' for all, else '+' and its name), limit.
-- Answers order and payload of each line. An order is time (8 bytes), execution, a zero byte, number (8 bytes).
local from, wanted, limit, found = ARGV[1], ARGV[2], tonumber(ARGV[3]), {}
while #found < 2 * limit do
  local orders = redis.call('ZRANGEBYLEX', KEYS[2], from, '+', 'LIMIT', 0, 200)
  for _, order in ipairs(orders) do
    local execution = string.sub(order, 9, -10)
    if #found < 2 * limit and (wanted == '' or wanted == '+' .. execution) then
      found[#found + 1] = order
      found[#found + 1] = redis.call('HGET', KEYS[1], string.sub(order, -8) .. execution)
    end
    from = '(' .. order
  end
  if #orders < 200 then break end
end
return found
