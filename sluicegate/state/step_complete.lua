-- Store a step's answer unless one is stored, and end our lease; the answer counts even if the lease had lapsed.
-- KEYS: 1 row HASH, 2 steps HASH
-- ARGV: 1 run_id of the server (unused), 2 step, 3 request hash, 4 owner, 5 answer, 6 open keeping ms,
--       7 dead letter ms
-- Reply: 1 stored | 0 an answer was there, or the event has ended otherwise than as a dead letter
local row, steps, step = KEYS[1], KEYS[2], ARGV[2]
local ended = redis.call('HMGET', row, 'state', 'kind')
local is_over = ended[1] == 'done'
if is_over and ended[2] ~= 'dead-letter' then return 0 end
local found = redis.call('HMGET', steps, 'v', 'r:' .. step, 'l:' .. step)
if found[1] and found[1] ~= '1' then return redis.error_reply('LAYOUT the steps have an unknown version') end
if found[3] and string.match(found[3], '^%d+ (.*)$') == ARGV[4] then redis.call('HDEL', steps, 'l:' .. step) end
if found[2] then return 0 end
redis.call('HSET', steps, 'v', '1', 'r:' .. step, ARGV[3], 'a:' .. step, ARGV[5])
local keep_ms = tonumber(is_over and ARGV[7] or ARGV[6])
if redis.call('PTTL', steps) < keep_ms then redis.call('PEXPIRE', steps, keep_ms) end
return 1
