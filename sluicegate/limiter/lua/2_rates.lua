-- Rates: which dimensions of the minute have a limit now, and how long each needs to refill a cost.
local active, limit_of, span_of, burst_of, safe

local function limit(d)
  local learnt = s[LEARNT + d]
  return learnt > 0 and learnt or configured[d]
end

local function look_at_rates()
  active, limit_of, span_of, burst_of = {}, {}, {}, {}
  for d = 1, 4 do
    local per_minute = limit(d)
    if per_minute > 0 then
      local n = #active + 1
      active[n], limit_of[n], span_of[n] = d, per_minute, WINDOW
      if strict > 0 then span_of[n] = WINDOW * (1 + (burst + s[LARGEST + d] * WINDOW / per_minute) / strict) end
      -- What a usual call takes may always go at once: else two limits that bind in turn waste each other.
      burst_of[n] = max(burst, ceil(s[USUAL + d] * span_of[n] / per_minute))
    end
  end
  safe = min(1, s[SAFE] + 0.01 * floor((now - s[SAFE_AT]) / 10000000))
end

local function stretch_at(at)
  local ramp = 1
  if s[RAMP] > 0 and at < s[RAMP_FROM] + s[RAMP] then
    ramp = 0.5 + 0.5 * max(0, at - s[RAMP_FROM]) / s[RAMP]
  end
  return 1 / (safe * ramp)
end

-- After a 429's block the first answer ends the climb: whether it is still awaited.
local function awaits_answer()
  local RATE_LIMITED = 1
  return s[RAMP] > 0 and now < s[RAMP_FROM] + s[RAMP] and s[RAMP_CODE] == RATE_LIMITED
end

local function slots()
  local ceiling = s[CEILING] > 0 and max(1, floor(s[CEILING])) or 0
  if ceiling > 0 and concurrency > 0 then return min(ceiling, concurrency) end
  return ceiling > 0 and ceiling or concurrency
end

local function lease_id(generation, number) return string.format('%s:%.0f:%.0f', me, generation, number) end

-- Days: hours[k][hour % 26 + 1] is what dimension k used; an hour counts for 24 hours after its end.
local HOUR, HOURS, REACH = 3600000000, 26, 24
local hours, newest_hour, hour_now

if has_days then
  local stored = redis.pcall('GET', KEYS[4])
  hour_now = floor(now / HOUR)
  newest_hour = hour_now + 1
  hours = {{}, {}, {}}
  local last = 0
  if type(stored) == 'string' and #stored == 8 * (1 + 3 * HOURS) then
    last = unpack('<d', stored)
    for i = 0, 3 * HOURS - 1 do
      hours[floor(i / HOURS) + 1][i % HOURS + 1] = unpack('<d', stored, 9 + 8 * i)
    end
    newest_hour = max(newest_hour, last)
  end
  for h = max(last + 1, hour_now + 2 - HOURS), hour_now + 1 do
    for k = 1, 3 do hours[k][h % HOURS + 1] = 0 end
  end
end

local function add_to_day(at, requests, tokens, micros)
  local h = floor(at / HOUR)
  if h > newest_hour - HOURS and h <= newest_hour then
    local i = h % HOURS + 1
    hours[1][i] = hours[1][i] + requests
    hours[2][i] = hours[2][i] + tokens
    hours[3][i] = hours[3][i] + micros
    dirty = true
  end
end

local function used_today(k)
  local used = 0
  for h = hour_now - REACH, hour_now + 1 do used = used + hours[k][h % HOURS + 1] end
  return used
end

local function day_start(k, units, used)
  if used + units <= per_day[k] then return 0 end
  local h = hour_now - REACH
  while true do
    used = used - hours[k][h % HOURS + 1]
    if used + units <= per_day[k] or h == hour_now + 1 then return (h + REACH + 1) * HOUR end
    h = h + 1
  end
end

look_at_rates()
