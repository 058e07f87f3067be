-- Finish: mark the confirmed end done, close the origin, append to the history, drop a result's steps.
-- KEYS: 1 row HASH, 2 gate ZSET, 3 gate entries HASH, 4 steps HASH, 5 history LIST,
--       6 dead letter STRING (the origin offset of the key's latest one, until a later event or its own replay has a result)
-- ARGV: 1 run_id of the server (unused), 2 "<gen>@<run_id>" as Take gave it, 3 kind as published, 4 origin offset, 5 mark ms, 6 dead letter ms, 7 horizon ms,
--       8 history ms, 9 most history entries, 10 most history bytes,
--       11 '1' when ordered, 12... packed history entries, oldest first
-- Reply: 'done' | 'already-done' | 'take-again'
local row, gate, entries, steps, history, dead = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local found = redis.call('HMGET', row, 'v', 'gen', 'state', 'due_at_ms', 'has_died')
if found[1] and found[1] ~= '1' then return redis.error_reply('LAYOUT the row has an unknown version') end
local gen = string.match(ARGV[2], '^[^@]*')
if found[2] and found[2] ~= gen then return 'take-again' end
if found[3] == 'done' then return 'already-done' end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local kind, offset = ARGV[3], ARGV[4]
local is_dead = kind == 'dead-letter'
redis.call('HSET', row, 'v', '1', 'gen', gen, 'state', 'done', 'kind', kind)
redis.call('HDEL', row, 'end', 'cancel')
local keep_ms = tonumber(is_dead and ARGV[6] or ARGV[5])
-- The letter of an earlier life lies in the DLQ, and whoever replays it must see what became of the event.
local mark_ms = found[5] and math.max(keep_ms, tonumber(ARGV[6])) or keep_ms
-- A copy of an event that was ever parked can turn up until its due time plus the horizon.
local known = tonumber(found[4] or '0')
local copy_ms = known > 0 and known + tonumber(ARGV[7]) - now or 0
redis.call('PEXPIRE', row, math.max(mark_ms, copy_ms, 1))

redis.call('ZREM', gate, offset)
redis.call('HDEL', entries, offset)
if is_dead then redis.call('PEXPIRE', steps, keep_ms) else redis.call('UNLINK', steps) end

local is_ordered, mine = ARGV[11] == '1', tonumber(offset)
if is_ordered or kind == 'result' then
  local dead_at = tonumber(redis.call('GET', dead) or '-1')
  if is_ordered and is_dead and dead_at < mine then
    redis.call('SET', dead, offset, 'PX', ARGV[8])
  elseif kind == 'result' and dead_at >= 0 and (dead_at == mine or (is_ordered and dead_at < mine)) then
    redis.call('DEL', dead)
  end
end

if #ARGV > 11 then
  for i = 12, #ARGV do redis.call('RPUSH', history, ARGV[i]) end
  redis.call('LTRIM', history, -tonumber(ARGV[9]), -1)
  local items, bytes, first = redis.call('LRANGE', history, 0, -1), 0, 1
  for i = #items, 1, -1 do
    bytes = bytes + #items[i]
    if bytes > tonumber(ARGV[10]) then first = i + 1 break end
  end
  if first > 1 then redis.call('LTRIM', history, first - 1, -1) end
  redis.call('PEXPIRE', history, ARGV[8])
end
return 'done'
