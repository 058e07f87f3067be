-- End our lease of a step without an answer.
-- KEYS: 1 steps HASH
-- ARGV: 1 run_id of the server (unused), 2 step, 3 owner
-- Reply: 1 ended | 0 not ours
local held = redis.call('HGET', KEYS[1], 'l:' .. ARGV[2])
if not held or string.match(held, '^%d+ (.*)$') ~= ARGV[3] then return 0 end
return redis.call('HDEL', KEYS[1], 'l:' .. ARGV[2])
