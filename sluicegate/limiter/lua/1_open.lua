-- One batch on one scope: sluicegate/limiter/reference is the same in Python, part by part, and says why.
-- KEYS[1]  lim:{scope}: the state, struct '<B c40' version and Redis's run_id, then doubles as indexed below
-- KEYS[2]  lim:{scope}:batch:<process>: struct '<d' sequence, then the reply to it
-- KEYS[3]  lim:{scope}:c: sorted set of calls on the wire by the end of their lease
-- KEYS[4]  lim:{scope}:d: doubles: newest hour, then 26 hours each of requests, tokens, micro-dollars
-- KEYS[5]  lim:{scope}:p: hash of process -> doubles: when it reported, calls on the wire, interactive and
--          bulk calls waiting, booked
-- KEYS[6]  lim:{scope}:t: hash of <queue>:<process> -> doubles: since when it waits, how many places it holds, when
--          to forget that; queues: for a place among the concurrent calls 0 interactive, 1 bulk; 2 bulk's turn
-- ARGV[1]  sequence of this process's batch, growing; ARGV[2] the process's name
-- ARGV[3]  doubles: whether run_id must be asked for, horizon, burst, block for so long, limits of the minute
--          (requests, tokens, input, output; 0 = none), of the day (requests, tokens, micro-dollars), concurrency,
--          bulk's share, strict window, largest calls (4), is hungry, wants probe, keeps probe, the process's
--          hash, lead: no call starts sooner than this, the time that the reply takes; places held (interactive,
--          bulk)
-- ARGV[4]  give-backs '<9d': booking (generation, number, stretch, start), cost (requests, tokens, input, output,
--          micro-dollars)
-- ARGV[5]  settlements '<12d': booking, extra cost, is released, duration, is alive
-- ARGV[6]  news '<6d': code, started, retry after, circuit reason, event, is probe
-- ARGV[7]  observations '<4d': dimension, extra, raised before, limit; ARGV[8] renewals '<4d': booking
-- ARGV[9]  requests '<10d': lane, booking (number 0 = none), cost; ARGV[10] report '<4d', or empty
-- Reply    '<19d' now, generation, blocked until, by dimension, bookings void until, flags (1 lost, 2 leasing,
--          4 wants answers, 8 probe), circuit, since, next probe, safe, learnt limits (4), raised (4), number of the
--          newest booking; then for each request '<3d' 16 x verdict (0 booked, 1 confirmed, 2 retry, 3 never) + dimension, wait, stretch.
--          Bookings of one batch are numbered in a row.
-- Dimensions: 1-4 of the minute, 5-7 of the day, 8 block, 9 circuit, 10 lane, 11 concurrency, 0 none.
-- All times are integers in us since 2025-01-01: exact in a double.
local VERSION, GUARD, WINDOW, BACKWARDS, CHECK_EVERY = 7, 2000000, 60000000, 10000000, 100000
local KEEP_MS, KEEP_BATCH_MS, KEEP_PROCESSES_MS, KEEP_TICKETS_MS = 86400000, 3600000, 3600000, 60000
local spread = unpack
local pack, unpack, ceil, floor, max, min = struct.pack, struct.unpack, math.ceil, math.floor, math.max, math.min

-- A process sends one batch at a time and repeats it until it is answered: a repeated one is answered from
-- memory and one that comes late is dropped, so that nothing is ever booked or settled twice.
local sequence, me = tonumber(ARGV[1]), ARGV[2]
local done = redis.call('GET', KEYS[2])
if done and unpack('<d', done) >= sequence then return string.sub(done, 9) end

local must_check, horizon, burst, block, m1, m2, m3, m4, day1, day2, day3, concurrency, bulk_share, strict,
  large1, large2, large3, large4, is_hungry, wants_probe, keeps_probe, me_hash, lead, held_interactive, held_bulk =
  unpack('<ddddddddddddddddddddddddd', ARGV[3])
local configured, per_day = {m1, m2, m3, m4}, {day1, day2, day3}
local has_days = day1 > 0 or day2 > 0 or day3 > 0

-- Where each value of the state stands; arrays of four begin after theirs.
local CHECKED, GENERATION, NEWEST, LAST_NOW, BLOCKED, BLOCK_CODE, CUT_UNTIL, CUT_NEWEST, SAFE, SAFE_AT, RAMP_FROM,
  RAMP = 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14
local CEILING, CEILING_TOP, CEILING_AT, CALL, INTERACTIVE_AT, HUNGRY_UNTIL, FAILURES, FAILING_SINCE, EVENTS =
  15, 16, 17, 18, 19, 20, 21, 22, 22
local CIRCUIT, SINCE, PROBE_AT, PROBE_UNTIL, PROBE_DELAY, HOLDER, PROBE_NUMBER = 28, 29, 30, 31, 32, 33, 34
local TAT, SHARE, LEARNT, RAISED, LARGEST, USUAL, BULK_UNTIL, BURST_AT, RAMP_CODE, LAST =
  34, 38, 42, 46, 50, 54, 59, 60, 61, 61
local MOMENTS = {BLOCKED, CUT_UNTIL, BURST_AT, SAFE_AT, RAMP_FROM, CEILING_AT, INTERACTIVE_AT, HUNGRY_UNTIL, BULK_UNTIL,
  FAILING_SINCE, SINCE, PROBE_AT, SHARE + 1, SHARE + 2, SHARE + 3, SHARE + 4}
local LAYOUT = '<Bc40ddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd'
local LENGTH = 41 + 8 * (LAST - 2)
local BLOCK_GUARD, BLOCK_TOLD = 4, 5

local time = redis.call('TIME')
local now = (time[1] - 1735689600) * 1000000 + time[2]
local dirty = false

local raw = redis.pcall('GET', KEYS[1])
if type(raw) ~= 'string' or #raw ~= LENGTH or string.byte(raw) ~= VERSION then raw = false end
local run_id, s
local was_lost = not raw
if raw then
  s = {unpack(LAYOUT, raw)}
  run_id = s[2]
end
-- INFO costs as much as ten bookings, so not every batch asks whose state this is: a process does on each new
-- connection and when it brings the script, and ten times a second somebody does all the same.
local run = run_id
if must_check > 0 or not raw or now - s[CHECKED] >= CHECK_EVERY or now < s[CHECKED] then
  run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  if raw then s[CHECKED], dirty = now, true end
end
if not raw then
  s = {VERSION, run}
  for i = 3, LAST do s[i] = 0 end
  s[CHECKED], s[GENERATION], s[SAFE], s[SAFE_AT] = now, now, 1, now
  s[BLOCKED], s[BLOCK_CODE], dirty = now + GUARD, BLOCK_GUARD, true
  for d = 1, 4 do s[TAT + d] = now + GUARD + burst end
elseif run ~= run_id or s[LAST_NOW] - now > BACKWARDS then
  -- A restart or failover, perhaps with a clock of its own: keep the debts, trust no booking.
  local back = max(0, s[LAST_NOW] - now)
  for i = 1, #MOMENTS do s[MOMENTS[i]] = s[MOMENTS[i]] - back end
  for d = 1, 4 do s[TAT + d] = max(s[TAT + d] - back, now + GUARD + burst) end
  if s[BLOCKED] < now + GUARD then s[BLOCKED], s[BLOCK_CODE] = now + GUARD, BLOCK_GUARD end
  s[PROBE_UNTIL], s[HOLDER], s[PROBE_NUMBER] = 0, 0, 0
  s[2], s[CHECKED], s[GENERATION], dirty = run, now, max(now, s[GENERATION] + 1), true
  s[NEWEST], s[CUT_NEWEST] = 0, 0
else
  now = max(now, s[LAST_NOW])
end
if s[CEILING] > 0 and now - s[CEILING_AT] > 600000000 then
  s[CEILING], s[CEILING_TOP], dirty = 0, 0, true
end
if strict > 0 then
  local given = {large1, large2, large3, large4}
  for d = 1, 4 do
    if given[d] > s[LARGEST + d] then s[LARGEST + d], dirty = given[d], true end
  end
end
