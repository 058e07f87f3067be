-- Requests: booked on every limited dimension or on none.
local LEASE, PROBE_LEASE, HUNGRY, BULK_AHEAD, LANE_MEMORY = 10000000, 5000000, 100000, 500000, 60000000

local function has_right_to_probe() return s[HOLDER] == me_hash and s[PROBE_UNTIL] > now end

if s[CIRCUIT] > 0 then
  if keeps_probe > 0 and has_right_to_probe() then
    s[PROBE_UNTIL], dirty = max(s[PROBE_UNTIL], now + PROBE_LEASE), true
  elseif wants_probe > 0 and s[PROBE_AT] <= now and s[PROBE_UNTIL] <= now then
    s[HOLDER], s[PROBE_NUMBER], s[PROBE_UNTIL], dirty = me_hash, 0, now + PROBE_LEASE, true
  end
end

local blocked, blocked_by = s[BLOCKED], 8
if has_days then
  for k = 1, 3 do
    if per_day[k] > 0 then
      local used = used_today(k)
      local full = used > 0.99 * per_day[k] and day_start(k, 0.01 * per_day[k], used) or 0
      if full > blocked then blocked, blocked_by = full, 4 + k end
    end
  end
end
local is_blocked = blocked > now

-- Queues for places among the concurrent calls, a lane by itself, and of bulk processes that may not book yet: one
-- ticket a process in each, {since, held, end}.
local TURNS = 2
local TURN, TICKET, LEAST_WAIT, LONGEST_NEXT_WAIT, LONGEST_WAIT, NEXT = 1000000, 500000, 5000, 250000, 500000, 0.5
local open_slots, in_use = slots(), 0
local held, own_ticket, tickets = {[0] = held_interactive, held_bulk}, {}, nil

local function ticket_name(queue) return string.format('%.0f:%s', queue, me) end

local function look_at_tickets()
  if tickets then return end
  tickets = {[0] = {}, {}, {}}
  local all = redis.call('HGETALL', KEYS[6])
  for i = 1, #all, 2 do
    local queue, ticket = string.byte(all[i]) - 48, {unpack('<ddd', all[i + 1])}
    if ticket[3] <= now then redis.call('HDEL', KEYS[6], all[i])
    elseif all[i] == ticket_name(queue) then own_ticket[queue] = ticket
    else tickets[queue][#tickets[queue] + 1] = ticket end
  end
end

local function keep_ticket(queue, ticket, wait)
  own_ticket[queue], ticket[3] = ticket, now + wait + TICKET
  redis.call('HSET', KEYS[6], ticket_name(queue), pack('<ddd', ticket[1], ticket[2], ticket[3]))
  redis.call('PEXPIRE', KEYS[6], ceil((wait + TICKET) / 1000) + KEEP_TICKETS_MS)
end

local function leave_queue(queue)
  if own_ticket[queue] then redis.call('HDEL', KEYS[6], ticket_name(queue)) end
  own_ticket[queue] = nil
end

if open_slots > 0 then
  for at = 1, #ARGV[8], 32 do
    local g, n = unpack('<dd', ARGV[8], at)
    redis.call('ZADD', KEYS[3], now + LEASE, lease_id(g, n))
  end
end

-- A used-up day voids no booking: what is booked has been counted.
local function is_doubtful(n, start)
  return n > 0 and (start < s[BLOCKED] or (s[CIRCUIT] > 0 and n ~= s[PROBE_NUMBER]))
end

for at = #ARGV[9] - 79, 1, -80 do
  local _, g, n, stretch, start, requests, tokens, input, output, micros = unpack('<dddddddddd', ARGV[9], at)
  if is_doubtful(n, start) then give_back(g, n, stretch, start, requests, tokens, input, output, micros) end
end

if open_slots > 0 and #ARGV[9] > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
  in_use = redis.call('ZCARD', KEYS[3])
  look_at_tickets()
end

local base = max(now + lead, blocked)
local base_by = is_blocked and base == blocked and blocked_by or 0
local base_stretch = stretch_at(base)
local is_even = s[RAMP] == 0 or base >= s[RAMP_FROM] + s[RAMP]
local interactive_until = 0
local cost = {} -- by place in `active`: what the call at hand takes of each dimension's refill

local function too_large(requests, tokens, input, output, micros)
  local units = {requests, tokens, input, output}
  for j = 1, #active do
    if units[active[j]] > limit_of[j] then return active[j] end
  end
  if has_days then
    local wanted = {requests, tokens, micros}
    for k = 1, 3 do
      if per_day[k] > 0 and wanted[k] > per_day[k] then return 4 + k end
    end
  end
end

local function first_free_day(start, requests, tokens, micros)
  local wanted, by = {requests, tokens, micros}, nil
  for k = 1, 3 do
    if per_day[k] > 0 then
      local earliest = day_start(k, wanted[k], used_today(k))
      if earliest > start then start, by = earliest, 4 + k end
    end
  end
  return start, by
end

local function probe_wait()
  local is_taken = s[PROBE_UNTIL] > now
  if is_taken and s[HOLDER] == me_hash and s[PROBE_NUMBER] == 0 then return 0 end
  return max(0, (is_taken and s[PROBE_UNTIL] or s[PROBE_AT]) - now)
end

-- Returns from when bulk's guaranteed part has room for the call at hand, and what it takes of which places.
local function share_of()
  local places, costs, share = {}, {}, 0
  for j = 1, #active do
    if cost[j] > 0 then places[#places + 1], costs[#costs + 1] = active[j], ceil(cost[j] / bulk_share) end
  end
  if #places == 0 then
    places[1], costs[1] = 1, ceil((open_slots > 0 and s[CALL] / open_slots or 0) / bulk_share)
  end
  for i = 1, #places do share = max(share, s[SHARE + places[i]]) end
  return share, places, costs
end

-- Returns how many processes go first: they hold less, or as much and wait for longer.
local function queued_ahead(lane)
  local own, since, count = own_ticket[lane], now, 0
  if own and own[2] == held[lane] then since = own[1]
  elseif own and own[2] > held[lane] then since = now - TURN end -- a call in the place of the last one
  for _, other in ipairs(tickets[lane]) do
    if other[2] < held[lane] or (other[2] == held[lane] and other[1] < since) then count = count + 1 end
  end
  return count
end

-- Returns when a place may well be free: by how many will not be taken again by those who give them back.
local function place_wait(lane, since)
  local turn, coming, is_turn_near = since + TURN - now, in_use - held[lane], false
  for _, other in ipairs(tickets[lane]) do
    local is_level = other[2] - 1 == held[lane]
    if other[2] <= held[lane] or (is_level and turn > 0) then coming = coming - other[2] end
    is_turn_near = is_turn_near or is_level
  end
  local wait, longest = is_turn_near and turn or LONGEST_WAIT, LONGEST_WAIT
  if coming > 0 then
    local before = queued_ahead(lane)
    wait = floor(s[CALL] * max(NEXT, before) / coming)
    if before == 0 then longest = LONGEST_NEXT_WAIT end
  end
  return max(LEAST_WAIT, min(wait, longest))
end

local function queue_for_place(lane, not_before)
  local ticket = own_ticket[lane]
  if not ticket or ticket[2] ~= held[lane] then ticket = {now, held[lane]} end
  local wait = max(place_wait(lane, ticket[1]), min(not_before - now, LONGEST_WAIT))
  keep_ticket(lane, ticket, wait)
  return wait
end

local function take_place(lane)
  local ticket = own_ticket[lane]
  if ticket and ticket[2] <= held[lane] then leave_queue(lane) end
  held[lane], in_use = held[lane] + 1, in_use + 1
end

-- Returns how long to wait for a place on the wire; bulk work that has a share to come is kept the next one.
local function slot_wait(lane)
  local kept = lane == 0 and s[BULK_UNTIL] > now and 1 or 0
  if in_use + kept + queued_ahead(lane) < open_slots then return 0 end
  if lane == 0 then return queue_for_place(lane, 0) end
  local hungry_until, share = max(s[HUNGRY_UNTIL], interactive_until + HUNGRY), bulk_share > 0 and share_of()
  local wait = queue_for_place(lane, hungry_until > now and (share or hungry_until) or 0)
  if share and share <= now then s[BULK_UNTIL], dirty = now + wait + HUNGRY, true end
  return wait
end

-- Returns how many bulk processes wait for longer than this one to book.
local function turns_ahead()
  look_at_tickets()
  local since, count = own_ticket[TURNS] and own_ticket[TURNS][1] or now, 0
  for _, other in ipairs(tickets[TURNS]) do
    if other[1] < since then count = count + 1 end
  end
  return count
end

-- Bulk work books when nobody interactive waits and it is soon, or from its share, as if the bulk processes that
-- wait for longer had booked before; returns the wait.
local function lane_wait(start)
  local hungry_until = max(s[HUNGRY_UNTIL], interactive_until + HUNGRY)
  local ahead = now - s[INTERACTIVE_AT] <= LANE_MEMORY and min(horizon, BULK_AHEAD) or horizon
  local before, longest = turns_ahead(), 0
  for j = 1, #active do longest = max(longest, cost[j]) end
  local turn = start + before * longest
  if hungry_until <= now and turn - now <= ahead then return 0 end
  local next_at = turn - ahead
  if hungry_until > now then next_at = max(next_at, hungry_until) end
  if hungry_until > now and bulk_share > 0 then
    local share, places, costs = share_of()
    share = share + before * max(spread(costs))
    if share <= now then
      for i = 1, #places do s[SHARE + places[i]] = max(s[SHARE + places[i]] + costs[i], now) end
      return 0
    end
    next_at = min(next_at, share)
  end
  return max(20000, next_at - now)
end

local out, filled = {}, 0
for at = 1, #ARGV[9], 80 do
  local lane, g, n, held_stretch, held_start, requests, tokens, input, output, micros = unpack('<dddddddddd', ARGV[9], at)
  local verdict, dimension, wait, stretch = 0, base_by, 0, base_stretch
  local is_held = n > 0 and g == s[GENERATION] and not is_doubtful(n, held_start)
  local large = not is_held and too_large(requests, tokens, input, output, micros)
  local circuit_wait = s[CIRCUIT] > 0 and probe_wait() or 0
  if is_held then
    verdict, dimension, stretch = 1, 0, held_stretch
  elseif large then
    verdict, dimension = 3, large
  elseif circuit_wait > 0 then
    verdict, dimension, wait = 2, 9, circuit_wait
  else
    local start = base
    for j = 1, #active do
      local d = active[j]
      local units = d == 1 and requests or d == 2 and tokens or d == 3 and input or output
      local c = ceil(units * (span_of[j] * stretch) / limit_of[j])
      cost[j] = c
      if c > 0 then
        -- A call larger than the burst starts when the bucket is full, and leaves it in debt.
        local tat, allowed = s[TAT + d], burst_of[j]
        if tat < now then tat = now end
        local earliest = c < allowed and tat + c - allowed or tat
        if earliest > start then start, dimension = earliest, d end
      end
    end
    if has_days then
      local later, by = first_free_day(start, requests, tokens, micros)
      if by then start, dimension = later, by end
    end
    wait = start - now
    if start > base and not is_even then
      stretch = stretch_at(start)
      for j = 1, #active do
        local d = active[j]
        local units = d == 1 and requests or d == 2 and tokens or d == 3 and input or output
        cost[j] = ceil(units * (span_of[j] * stretch) / limit_of[j])
      end
    end
    local full = wait <= horizon and open_slots > 0 and slot_wait(lane) or 0
    if wait > horizon then
      verdict, wait = 2, wait - horizon
    elseif full > 0 then
      verdict, dimension, wait = 2, 11, full
    else
      local later = lane > 0 and lane_wait(start) or 0
      if later > 0 then
        verdict, dimension, wait = 2, 10, later
        leave_queue(lane)
        keep_ticket(TURNS, own_ticket[TURNS] or {now, 0}, later)
      end
    end
    if verdict == 0 then
      for j = 1, #active do
        local c, d = cost[j], active[j]
        if c > 0 then
          local tat, usual = s[TAT + d], s[USUAL + d]
          s[TAT + d] = (tat > start and tat or start) + c
          local units = d == 1 and requests or d == 2 and tokens or d == 3 and input or output
          s[USUAL + d] = usual > 0 and usual + (units - usual) / 16 or units
        end
      end
      if has_days then add_to_day(start, requests, tokens, micros) end
      n = s[NEWEST] + 1
      s[NEWEST], dirty = n, true
      if open_slots > 0 then
        redis.call('ZADD', KEYS[3], start + LEASE, lease_id(s[GENERATION], n))
        take_place(lane)
      end
      if lane == 0 then
        s[INTERACTIVE_AT] = now
        if is_hungry > 0 and start > interactive_until then interactive_until = start end
      else
        s[BULK_UNTIL] = 0
        leave_queue(TURNS)
      end
      if s[CIRCUIT] > 0 then
        dimension = 9
        s[HOLDER], s[PROBE_NUMBER], s[PROBE_UNTIL] = me_hash, n, start + PROBE_LEASE
      end
    end
  end
  if verdict > 1 then stretch = 1 end
  if verdict == 2 and lane == 0 then interactive_until = max(interactive_until, now + wait) end
  out[filled + 1], out[filled + 2], out[filled + 3] = 16 * verdict + dimension, wait, stretch
  filled = filled + 3
end
if is_hungry > 0 then interactive_until = max(interactive_until, now) end
if interactive_until > 0 and interactive_until + HUNGRY > s[HUNGRY_UNTIL] then
  s[HUNGRY_UNTIL], dirty = interactive_until + HUNGRY, true
end
