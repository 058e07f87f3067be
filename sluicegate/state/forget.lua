-- Forget: remove all that is kept of one key of a stream, unless an event of it is still open.
-- KEYS: every key found of it, rows and gates first: row HASHes, gate ZSETs, then any others
-- ARGV: 1 run_id of the server (unused), 2 how many of KEYS are rows, 3 how many after them are gates,
--       4 '1' to remove them although events are open
-- Reply: {open events, keys removed}
local rows, gates = tonumber(ARGV[2]), tonumber(ARGV[3])
local open, removed = 0, 0
for i = 1, rows do
  local state = redis.call('HGET', KEYS[i], 'state')
  -- A row that ran out of its time since it was found is no event any more.
  if state ~= 'done' and redis.call('HLEN', KEYS[i]) > 0 then open = open + 1 end
end
if open == 0 then
  -- An origin in the gate whose row was not found was opened a moment ago, or lost its row with Redis.
  for i = rows + 1, rows + gates do open = open + redis.call('ZCARD', KEYS[i]) end
end
if open > 0 and ARGV[4] ~= '1' then return {open, 0} end
for i = 1, #KEYS do removed = removed + redis.call('UNLINK', KEYS[i]) end
return {open, removed}
