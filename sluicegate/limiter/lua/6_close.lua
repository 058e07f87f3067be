-- Store what changed, remember the reply, and give it.
local is_leasing = slots() > 0
local has_probe = s[CIRCUIT] > 0 and has_right_to_probe() and s[PROBE_NUMBER] == 0
local flags = (was_lost and 1 or 0) + (is_leasing and 2 or 0) + ((s[FAILURES] > 0 or awaits_answer()) and 4 or 0)
  + (has_probe and 8 or 0)
local reply = pack('<ddddddddddddddddddd', now, s[GENERATION], blocked, blocked_by, s[BLOCKED], flags, s[CIRCUIT],
  s[SINCE], max(s[PROBE_AT], s[PROBE_UNTIL]), safe, s[LEARNT + 1], s[LEARNT + 2], s[LEARNT + 3], s[LEARNT + 4],
  s[RAISED + 1], s[RAISED + 2], s[RAISED + 3], s[RAISED + 4], s[NEWEST]) .. pack('<' .. string.rep('d', filled), spread(out, 1, filled))
if dirty then
  s[LAST_NOW] = now
  local far = max(s[TAT + 1], s[TAT + 2], s[TAT + 3], s[TAT + 4], blocked, now) - now
  redis.call('SET', KEYS[1], pack(LAYOUT, spread(s, 1, LAST)), 'PX', ceil(far / 1000) + KEEP_MS)
  if has_days then
    local flat = {newest_hour}
    for k = 1, 3 do
      for i = 1, HOURS do flat[#flat + 1] = hours[k][i] end
    end
    redis.call('SET', KEYS[4], pack('<' .. string.rep('d', #flat), spread(flat)), 'PX', 2 * KEEP_MS)
  end
  if is_leasing then redis.call('PEXPIRE', KEYS[3], KEEP_MS) end
end
redis.call('SET', KEYS[2], pack('<d', sequence) .. reply, 'PX', KEEP_BATCH_MS)
return reply
