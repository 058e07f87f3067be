-- Corrections: bookings that were not used, and what calls really took.

-- Only the newest booking leaves no hole before bookings of others; any other one is forfeited.
local function give_back(g, n, stretch, start, requests, tokens, input, output, micros)
  redis.call('ZREM', KEYS[3], lease_id(g, n))
  if g ~= s[GENERATION] or n == 0 then return end
  if n == s[NEWEST] then
    local units = {requests, tokens, input, output}
    for j = 1, #active do
      local d = active[j]
      s[TAT + d] = s[TAT + d] - ceil(units[d] * (span_of[j] * stretch) / limit_of[j])
    end
    s[NEWEST], dirty = s[NEWEST] - 1, true
  end
  if has_days then add_to_day(start, -requests, -tokens, -micros) end
end

for at = 1, #ARGV[4], 72 do give_back(unpack('<ddddddddd', ARGV[4], at)) end

for at = 1, #ARGV[5], 96 do
  local g, n, stretch, start, requests, tokens, input, output, micros, is_released, duration, is_alive =
    unpack('<dddddddddddd', ARGV[5], at)
  local is_ours = g == s[GENERATION]
  for j = 1, #active do
    local d = active[j]
    local tat = s[TAT + d]
    local units = d == 1 and requests or d == 2 and tokens or d == 3 and input or output
    local c = units ~= 0 and ceil(units * (span_of[j] * stretch) / limit_of[j]) or 0
    -- What a lost state forgot must not be refunded to its successor; what was used more is owed all the same.
    if c > 0 then s[TAT + d] = max(tat, now) + c elseif c < 0 and is_ours then s[TAT + d] = tat + c end
  end
  if has_days then
    if is_ours then add_to_day(start, requests, tokens, micros)
    else add_to_day(start, max(0, requests), max(0, tokens), max(0, micros)) end
  end
  if is_released > 0 then
    redis.call('ZREM', KEYS[3], lease_id(g, n))
    if duration > 0 then
      local before = s[CALL] > 0 and s[CALL] or duration
      s[CALL] = before + (duration - before) / 8
    end
    if s[CEILING] > 0 and is_alive > 0 then
      s[CEILING] = s[CEILING] + 1 / s[CEILING]
      if s[CEILING] > 2 * s[CEILING_TOP] then s[CEILING], s[CEILING_TOP] = 0, 0 end
    end
  end
  dirty = true
end

if #ARGV[10] > 0 then
  redis.call('HSET', KEYS[5], me, pack('<d', now) .. ARGV[10])
  redis.call('PEXPIRE', KEYS[5], KEEP_PROCESSES_MS)
  if redis.call('HLEN', KEYS[5]) > 64 then
    local all = redis.call('HGETALL', KEYS[5])
    for i = 1, #all, 2 do
      if now - unpack('<d', all[i + 1]) > 60000000 then redis.call('HDEL', KEYS[5], all[i]) end
    end
  end
end
