-- Take a step's lease, or learn its answer, or who has it.
-- KEYS: 1 row HASH, 2 steps HASH ("r:<step>" request hash, "a:<step>" answer, "l:<step>" "<until_ms> <owner>")
-- ARGV: 1 run_id of the server (unused), 2 step, 3 request hash, 4 owner, 5 lease ms, 6 open keeping ms
-- Reply: {'memo', answer} | {'leased', mismatch 0|1} | {'busy', wait ms} | {'ended'}
local row, steps, step, owner = KEYS[1], KEYS[2], ARGV[2], ARGV[4]
if redis.call('HGET', row, 'state') == 'done' then return {'ended'} end
local found = redis.call('HMGET', steps, 'v', 'r:' .. step, 'l:' .. step)
if found[1] and found[1] ~= '1' then return redis.error_reply('LAYOUT the steps have an unknown version') end
if found[2] == ARGV[3] then return {'memo', redis.call('HGET', steps, 'a:' .. step)} end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if found[3] then
  local until_ms, holder = string.match(found[3], '^(%d+) (.*)$')
  if holder ~= owner and tonumber(until_ms) > now then return {'busy', tonumber(until_ms) - now} end
end
if found[2] then redis.call('HDEL', steps, 'r:' .. step, 'a:' .. step) end
redis.call('HSET', steps, 'v', '1', 'l:' .. step, string.format('%.0f', now + tonumber(ARGV[5])) .. ' ' .. owner)
if redis.call('PTTL', steps) < tonumber(ARGV[6]) then redis.call('PEXPIRE', steps, ARGV[6]) end
return {'leased', found[2] and 1 or 0}
