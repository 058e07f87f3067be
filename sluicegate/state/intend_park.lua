-- Note that a copy is about to be published, so that the mark of the event's end outlives it.
-- KEYS: 1 row HASH
-- ARGV: 1 run_id of the server (unused), 2 due_at_ms, 3 horizon ms
-- Reply: 1
local row, due, horizon_ms = KEYS[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local found = redis.call('HMGET', row, 'v', 'due_at_ms')
if found[1] and found[1] ~= '1' then return redis.error_reply('LAYOUT the row has an unknown version') end
local known = tonumber(found[2] or '0')
if known > due then due = known end
redis.call('HSET', row, 'v', '1', 'due_at_ms', due)
local keep_ms = due + horizon_ms - now
if keep_ms < 1 then keep_ms = 1 end
if redis.call('PTTL', row) < keep_ms then redis.call('PEXPIRE', row, keep_ms) end
return 1
