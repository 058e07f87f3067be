-- What calls showed: blocks, a lower rate, fewer calls at once, an open circuit; what headers said.
if #ARGV[6] > 0 or #ARGV[7] > 0 or block > 0 then
  local RATE_LIMITED, RAMP_LIMITED, OVERLOADED, HALTED, DOWN, ALIVE, PROBE_UNUSED = 1, 2, 3, 4, 5, 6, 7
  local OUTAGE, OUTAGE_CALLS, OUTAGE_US = 1, 20, 5000000
  local FIRST_PROBE, LONGEST_PROBE, LONGEST_RAMP = 5000000, 60000000, 10000000

  local function end_probe(next_at)
    s[PROBE_AT], s[PROBE_UNTIL], s[HOLDER], s[PROBE_NUMBER] = next_at, 0, 0, 0
  end

  local function open_circuit(reason, is_probe)
    if s[CIRCUIT] == 0 then
      s[CIRCUIT], s[SINCE], s[PROBE_DELAY] = reason, now, FIRST_PROBE
      end_probe(now + FIRST_PROBE)
    elseif is_probe > 0 then
      s[CIRCUIT], s[PROBE_DELAY] = reason, min(2 * s[PROBE_DELAY], LONGEST_PROBE)
      end_probe(now + s[PROBE_DELAY])
    end
  end

  local function close_circuit()
    s[CIRCUIT], s[SINCE], s[PROBE_DELAY] = 0, 0, 0
    end_probe(0)
    s[RAMP_FROM], s[RAMP], s[RAMP_CODE] = max(now, s[BLOCKED]), LONGEST_RAMP, 0
  end

  local function nothing_fails()
    s[FAILURES] = 0
    for i = 1, 5 do s[EVENTS + i] = 0 end
  end

  local function block_for(wait, code)
    if wait > 0 and now + wait > s[BLOCKED] then
      s[BLOCKED], s[BLOCK_CODE] = now + wait, code
      s[RAMP_FROM], s[RAMP], s[RAMP_CODE] = now + wait, min(LONGEST_RAMP, floor(wait / 2)), code
    end
  end

  local function calls_in_flight()
    if concurrency > 0 then return redis.call('ZCOUNT', KEYS[3], '(' .. string.format('%.0f', now), '+inf') end
    local all, count = redis.call('HGETALL', KEYS[5]), 0
    for i = 2, #all, 2 do
      local at, in_flight = unpack('<dd', all[i])
      if now - at <= 10000000 then count = count + in_flight end
    end
    return count
  end

  local function shrink()
    local base = max(1, s[CEILING] > 0 and s[CEILING] or calls_in_flight())
    if s[CEILING_TOP] == 0 then s[CEILING_TOP] = base end
    s[CEILING], s[CEILING_AT] = max(1, floor(base * 0.7)), now
  end

  -- Calls that began before the last cut's block ended belong to the burst that made it.
  local function lower_rate(code, started, wait)
    if started < s[CUT_UNTIL] then
      if now <= s[CUT_UNTIL] then s[CUT_UNTIL] = max(s[CUT_UNTIL], now + wait) end
      return
    end
    local seen, since = started - s[BURST_AT], now - s[BURST_AT]
    local calls = max(1, (s[NEWEST] - s[CUT_NEWEST]) * seen / max(1, since, seen))
    local cut = 1 - min(0.1, 1.8 / calls)
    s[SAFE] = max(0.5, safe * (code == RAMP_LIMITED and 0.5 or cut))
    s[SAFE_AT], s[CUT_UNTIL] = now, now + wait
    look_at_rates()
    if #active == 0 then shrink() end
  end

  local function answered(started, is_probe)
    nothing_fails()
    if s[CIRCUIT] == OUTAGE and started >= s[SINCE] then close_circuit()
    elseif s[CIRCUIT] > 0 then open_circuit(s[CIRCUIT], is_probe) end
  end

  local function failed(event, is_probe)
    if s[FAILURES] == 0 then s[FAILING_SINCE] = now end
    s[FAILURES] = s[FAILURES] + 1
    for i = EVENTS + 1, EVENTS + 5 do
      if event == 0 or s[i] == event then break end
      if s[i] == 0 then s[i] = event break end
    end
    if s[CIRCUIT] > 0 then
      if is_probe > 0 then open_circuit(s[CIRCUIT], is_probe) end
    elseif s[FAILURES] >= OUTAGE_CALLS and s[EVENTS + 5] > 0 and now - s[FAILING_SINCE] >= OUTAGE_US then
      open_circuit(OUTAGE, 0)
    end
  end

  for at = 1, #ARGV[6], 48 do
    local code, started, retry_after, reason, event, is_probe = unpack('<dddddd', ARGV[6], at)
    if code == RATE_LIMITED or code == RAMP_LIMITED then
      local wait = retry_after > 0 and retry_after or 1000000
      lower_rate(code, started, wait)
      s[BURST_AT], s[CUT_NEWEST] = now, s[NEWEST]
      block_for(wait, code)
      answered(started, is_probe)
    elseif code == OVERLOADED then
      block_for(retry_after, code)
      if started > s[CEILING_AT] then shrink() end
      answered(started, is_probe)
    elseif code == HALTED then open_circuit(reason, is_probe)
    elseif code == DOWN then failed(event, is_probe)
    elseif code == ALIVE then
      nothing_fails()
      if awaits_answer() and started >= s[RAMP_FROM] then s[RAMP] = 0 end
      if s[CIRCUIT] > 0 and started >= s[SINCE] then close_circuit() end
    elseif code == PROBE_UNUSED and s[HOLDER] == me_hash then end_probe(now) end
    dirty = true
  end

  if block > 0 and now + block > s[BLOCKED] then s[BLOCKED], s[BLOCK_CODE], dirty = now + block, BLOCK_TOLD, true end

  for at = 1, #ARGV[7], 32 do
    local d, extra, raised_before, told = unpack('<dddd', ARGV[7], at)
    if told > 0 and told ~= limit(d) then
      s[LEARNT + d] = told ~= configured[d] and told or 0
      -- What was booked at another rate can't be taken out exactly: it is forfeited when given back.
      s[NEWEST], dirty = s[NEWEST] + 1, true
      look_at_rates()
    end
    if limit(d) > 0 then
      local tat = max(s[TAT + d], now)
      local raised = min(extra - (s[RAISED + d] - raised_before), now + 1000000 - tat)
      if raised > 0 then
        s[TAT + d], s[RAISED + d], dirty = tat + raised, s[RAISED + d] + raised, true
      end
    end
  end
end
