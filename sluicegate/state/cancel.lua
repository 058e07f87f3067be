-- Cancel: flag the event, so that whoever takes one of its records next dead-letters it instead of running it.
-- KEYS: 1 row HASH
-- ARGV: 1 run_id of the server (unused), 2 due_at_ms of the record that was found, 3 open keeping ms, 4 horizon ms
-- Reply: {verdict 'flagged' | 'too-late' | 'ended', the copy that counts or ''}
local row, due, open_ms, horizon_ms = KEYS[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local found = redis.call('HMGET', row, 'v', 'live', 'state', 'due_at_ms')
if found[1] and found[1] ~= '1' then return redis.error_reply('LAYOUT the row has an unknown version') end
local live = found[2] or ''
if found[3] == 'done' then return {'ended', live} end
if found[3] == 'claimed' then return {'too-late', live} end
-- Without a row (flushed) one is made with `live` unset: the first copy that comes counts, and finds the flag.
local last = math.max(due, tonumber(found[4] or '0'))
redis.call('HSET', row, 'v', '1', 'cancel', '1', 'due_at_ms', string.format('%.0f', last))
local keep_ms = math.max(open_ms, last + horizon_ms - now)
if redis.call('PTTL', row) < keep_ms then redis.call('PEXPIRE', row, keep_ms) end
return {'flagged', live}
