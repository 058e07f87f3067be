-- Take: what to do with a delivered record.
-- KEYS: 1 row HASH, 2 gate ZSET (member = score = offset), 3 gate entries HASH (offset -> "<due_at_ms> <run_id>"),
--       4 dead letter STRING (see finish)
-- ARGV: 1 run_id of the server, 2 copy id, 3 the id it replaces ('' = none), 4 a fresh gen, 5 origin offset,
--       6 '1' when ordered, 7 open keeping ms, 8 horizon ms, 9 heal after ms, 10 '1' when a replay sent this copy
-- Reply: {verdict, "<gen>@<run_id>", switch was lost 0|1, gates healed, ...} with verdict
--        'stale' | 'run' (..., offset of the key's latest dead letter before it or -1) | 'cancelled' | 'finish' (..., stored end) | 'behind' (..., offset, due_at_ms)
local row, gate, entries = KEYS[1], KEYS[2], KEYS[3]
local run, mine, replaces, offset = ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local is_copy, is_gated = mine ~= 'input', ARGV[6] == '1'
local open_ms, horizon_ms, heal_ms = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function prolong(key, ms)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
end

local function hop(id)
  return tonumber(string.match(id, '^(%d+)%-') or '0')
end

local found = redis.call('HMGET', row, 'v', 'live', 'gen', 'run', 'state', 'due_at_ms', 'cancel', 'kind')
local live, gen, state, is_cancelled = found[2], found[3], found[5], found[7]
local due = tonumber(found[6] or '0')
if found[1] and found[1] ~= '1' then return redis.error_reply('LAYOUT the row has an unknown version') end
if state == 'done' then
  local is_next = live ~= mine and (not live or live == replaces)
  if not (ARGV[10] == '1' and found[8] == 'dead-letter' and is_next) then return {'stale'} end
  -- Another life of the event: whoever still works on the last one finds another gen.
  redis.call('HDEL', row, 'state', 'kind', 'end', 'cancel')
  redis.call('HSET', row, 'has_died', '1')
  state, is_cancelled, gen = false, false, false
end

local lost = 0
if live ~= mine then
  if live and not (replaces ~= '' and live == replaces) then
    -- A switch can only be missing when Redis came back without its last second.
    if found[4] == run or hop(mine) <= hop(live) then return {'stale'} end
    lost = 1
  end
  gen = gen or ARGV[4]
  if is_copy and due < now then due = now end
  redis.call('HSET', row, 'v', '1', 'live', mine, 'gen', gen, 'run', run)
  if due > 0 then redis.call('HSET', row, 'due_at_ms', due) end
end
local keep_ms = open_ms
if due > 0 and due + horizon_ms - now > keep_ms then keep_ms = due + horizon_ms - now end
prolong(row, keep_ms)

if is_copy and is_gated then
  -- A delivered copy that counts is open under this run: nobody heals the gate over its head.
  local entry = redis.call('HGET', entries, offset)
  local entry_due, entry_run = string.match(entry or '', '^(%d+) (.*)$')
  if entry_run ~= run then
    redis.call('ZADD', gate, offset, offset)
    redis.call('HSET', entries, offset, string.format('%.0f', tonumber(entry_due) or due) .. ' ' .. run)
    prolong(gate, keep_ms)
    prolong(entries, keep_ms)
  end
end

local hold = gen .. '@' .. run
if state == 'claimed' then return {'finish', hold, lost, 0, redis.call('HGET', row, 'end')} end
if is_cancelled then return {'cancelled', hold, lost, 0} end

local healed = 0
while is_gated do
  local lower = redis.call('ZREVRANGEBYSCORE', gate, '(' .. offset, '-inf', 'LIMIT', 0, 1)[1]
  if not lower then break end
  local text = redis.call('HGET', entries, lower)
  local lower_due, lower_run = string.match(text or '', '^(%d+) (.*)$')
  lower_due = tonumber(lower_due or '0')
  local is_forgotten = lower_due + open_ms < now
  local is_orphan = lower_run ~= run and lower_due + heal_ms < now
  if not (is_forgotten or is_orphan) then
    return {'behind', hold, lost, healed, tonumber(lower), lower_due}
  end
  redis.call('ZREM', gate, lower)
  redis.call('HDEL', entries, lower)
  healed = healed + 1
end
local dead = is_gated and tonumber(redis.call('GET', KEYS[4]) or '-1') or -1
if dead >= tonumber(offset) then dead = -1 end
return {'run', hold, lost, healed, dead}
