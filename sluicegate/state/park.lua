-- Park: make the new, already confirmed copy the one that counts, and open its origin in the gate.
-- KEYS: 1 row HASH, 2 gate ZSET (member = score = offset), 3 gate entries HASH (offset -> "<due_at_ms> <run_id>")
-- ARGV: 1 run_id of the server, 2 the copy in our hands, 3 the new copy, 4 "<gen>@<run_id>" as Take gave it, 5 due_at_ms, 6 origin offset,
--       7 '1' when ordered, 8 open keeping ms, 9 horizon ms
-- Reply: 'switched' | 'refused' | 'take-again'
local row, gate, entries = KEYS[1], KEYS[2], KEYS[3]
local run, new, offset = ARGV[1], ARGV[3], ARGV[6]
local due, open_ms, horizon_ms = tonumber(ARGV[5]), tonumber(ARGV[8]), tonumber(ARGV[9])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function prolong(key, ms)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
end

local found = redis.call('HMGET', row, 'v', 'live', 'gen', 'state', 'due_at_ms')
if found[1] and found[1] ~= '1' then return redis.error_reply('LAYOUT the row has an unknown version') end
-- Taken from an earlier server: this one may have lost what became of the event since. Then another copy is
-- the one to wait for, and ours may be gone: a switch would lose the event, or leave its gate open for good.
if not found[3] or ARGV[4] ~= found[3] .. '@' .. run then return 'take-again' end
if found[4] == 'done' then return 'refused' end
if found[2] ~= ARGV[2] and found[2] ~= new then return 'refused' end

local last = tonumber(found[5] or '0')
if last < due then last = due end
redis.call('HSET', row, 'live', new, 'run', run, 'due_at_ms', last)
local keep_ms = open_ms
if last + horizon_ms - now > keep_ms then keep_ms = last + horizon_ms - now end
prolong(row, keep_ms)
if ARGV[7] == '1' then
  redis.call('ZADD', gate, offset, offset)
  redis.call('HSET', entries, offset, string.format('%.0f', due) .. ' ' .. run)
  prolong(gate, keep_ms)
  prolong(entries, keep_ms)
end
return 'switched'
