-- Books start times in one scope, all dimensions or none; reference.py is the same in Python.
-- KEYS[1]  lim:{scope}: struct '<B c40 d d d d d d': layout version, Redis's run_id, generation, number of
--          the newest booking, last_now, blocked_until, tat of requests, tat of tokens
-- KEYS[2]  lim:{scope}:batch:<process>: struct '<d' sequence, then the reply to it
-- ARGV[1]  sequence of this process's batch, growing; 0 = only look (nothing in ARGV[3..5], no block)
-- ARGV[2]  '<5d' horizon, burst, block for so long (0 = no block), requests and tokens per minute (0 = no limit)
-- ARGV[3]  give-backs, ARGV[4] settlements, ARGV[5] requests: n times '<4d' generation, number, requests,
--          tokens (of a request: the booking that it confirms, 0 = none)
-- Reply    '<3d' now, generation, blocked_until; then for each request '<4d' verdict (0 booked, 1 confirmed,
--          2 retry, 3 never), dimension (0 none, 1 requests, 2 tokens, 3 block), wait, number
-- All times are integers in us since 2025-01-01: exact in a double.
local VERSION, GUARD, WINDOW, BACKWARDS = 1, 2000000, 60000000, 10000000
local KEEP_MS, KEEP_BATCH_MS = 86400000, 3600000
local pack, unpack, ceil, max, min = struct.pack, struct.unpack, math.ceil, math.max, math.min

-- A process sends one batch at a time and repeats it until it is answered: a repeated one is answered from
-- memory and one that comes late is dropped, so that nothing is ever booked or settled twice.
local sequence = tonumber(ARGV[1])
if sequence > 0 then
  local done = redis.call('GET', KEYS[2])
  if done and unpack('<d', done) >= sequence then return string.sub(done, 9) end
end

local time = redis.call('TIME')
local clock = (time[1] - 1735689600) * 1000000 + time[2]
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local horizon, burst, block, rpm, tpm = unpack('<ddddd', ARGV[2])

local raw = redis.pcall('GET', KEYS[1])
if type(raw) ~= 'string' or #raw ~= 89 or string.byte(raw) ~= VERSION then raw = false end
local now, dirty = clock, false
local generation, newest, blocked, tat1, tat2
if raw then
  local _, run, last
  _, run, generation, newest, last, blocked, tat1, tat2 = unpack('<Bc40dddddd', raw)
  if run ~= run_id or last - clock > BACKWARDS then
    -- A restart or failover, perhaps with a clock of its own: keep the debts, trust no booking.
    local back = max(0, last - clock)
    generation, newest, dirty = max(now, generation + 1), 0, true
    blocked = max(blocked - back, now + GUARD)
    tat1 = max(tat1 - back, now + GUARD + burst)
    tat2 = max(tat2 - back, now + GUARD + burst)
  else
    now = max(clock, last)
  end
else
  generation, newest, dirty = now, 0, true
  blocked = now + GUARD
  tat1, tat2 = blocked + burst, blocked + burst
end

local function times(requests, tokens)
  local c1, c2 = 0, 0
  if rpm > 0 then c1 = ceil(requests * WINDOW / rpm) end
  if tpm > 0 then c2 = ceil(tokens * WINDOW / tpm) end
  return c1, c2
end

-- Only the newest booking leaves no hole before bookings of others; any other one is forfeited.
local function give_back(g, n, requests, tokens)
  if g ~= generation or n ~= newest or n == 0 then return end
  local c1, c2 = times(requests, tokens)
  tat1, tat2, newest, dirty = tat1 - c1, tat2 - c2, newest - 1, true
end

for at = 1, #ARGV[3], 32 do give_back(unpack('<dddd', ARGV[3], at)) end

for at = 1, #ARGV[4], 32 do
  local g, _, requests, tokens = unpack('<dddd', ARGV[4], at)
  local c1, c2 = times(requests, tokens)
  -- What a lost state forgot must not be refunded to its successor; what was used more is owed all the same.
  if g ~= generation then c1, c2 = max(0, c1), max(0, c2) end
  tat1, tat2, dirty = max(tat1, c1 > 0 and now or 0) + c1, max(tat2, c2 > 0 and now or 0) + c2, true
end

if block > 0 then blocked, dirty = max(blocked, now + block), true end

local is_open = blocked <= now
for at = #ARGV[5] - 31, 1, -32 do
  local g, n, requests, tokens = unpack('<dddd', ARGV[5], at)
  if n > 0 and not is_open then give_back(g, n, requests, tokens) end
end

local out = {}
for at = 1, #ARGV[5], 32 do
  local g, n, requests, tokens = unpack('<dddd', ARGV[5], at)
  local c1, c2 = times(requests, tokens)
  local verdict, dimension, wait = 0, 0, 0
  if n > 0 and g == generation and is_open then
    verdict = 1
  elseif c1 > WINDOW or c2 > WINDOW then
    verdict, dimension, n = 3, c1 > WINDOW and 1 or 2, 0
  else
    local start = now
    if blocked > start then start, dimension = blocked, 3 end
    -- A call larger than the burst starts when the bucket is full, and leaves it in debt.
    local t1 = c1 > 0 and max(tat1, now) + min(c1, burst) - burst or 0
    local t2 = c2 > 0 and max(tat2, now) + min(c2, burst) - burst or 0
    if t1 > start then start, dimension = t1, 1 end
    if t2 > start then start, dimension = t2, 2 end
    wait = start - now
    if wait > horizon then
      verdict, n = 2, 0
    else
      if c1 > 0 then tat1 = max(tat1, start) + c1 end
      if c2 > 0 then tat2 = max(tat2, start) + c2 end
      newest, dirty = newest + 1, true
      n = newest
    end
  end
  out[#out + 1] = pack('<dddd', verdict, dimension, wait, n)
end

local reply = pack('<ddd', now, generation, blocked) .. table.concat(out)
if dirty then
  local far = max(tat1, tat2, blocked, now) - now
  redis.call('SET', KEYS[1], pack('<Bc40dddddd', VERSION, run_id, generation, newest, now, blocked, tat1, tat2),
    'PX', ceil(far / 1000) + KEEP_MS)
end
if sequence > 0 then redis.call('SET', KEYS[2], pack('<d', sequence) .. reply, 'PX', KEEP_BATCH_MS) end
return reply
