-- Prolong a step's lease if it is still ours, lapsed or not, as long as nobody else took it.
-- KEYS: 1 steps HASH
-- ARGV: 1 run_id of the server (unused), 2 step, 3 owner, 4 lease ms
-- Reply: 1 prolonged | 0 not ours
local held = redis.call('HGET', KEYS[1], 'l:' .. ARGV[2])
if not held or string.match(held, '^%d+ (.*)$') ~= ARGV[3] then return 0 end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('HSET', KEYS[1], 'l:' .. ARGV[2], string.format('%.0f', now + tonumber(ARGV[4])) .. ' ' .. ARGV[3])
return 1
