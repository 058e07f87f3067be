-- What earlier origins of the key left, fixed at the event's first call and stored beside its steps.
-- KEYS: 1 steps HASH (field "history": cmsgpack of a list of strings), 2 history LIST
--       (items "1 <topic>/<partition> <offset> <packed entry>", oldest first)
-- ARGV: 1 run_id of the server (unused), 2 "<topic>/<partition>" of the origin, 3 its offset, 4 open keeping ms
-- Reply: list of packed entries, oldest first
local steps, place, offset = KEYS[1], ARGV[2], tonumber(ARGV[3])
local found = redis.call('HMGET', steps, 'v', 'history')
if found[1] and found[1] ~= '1' then return redis.error_reply('LAYOUT the steps have an unknown version') end
if found[2] then return cmsgpack.unpack(found[2]) end
local earlier = {}
for _, item in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
  local left_place, left_offset, packed = string.match(item, '^1 (%S+) (%d+) (.*)$')
  -- Offsets compare within one partition only; what another partition left is there, so it is earlier.
  if packed and (left_place ~= place or tonumber(left_offset) < offset) then earlier[#earlier + 1] = packed end
end
redis.call('HSET', steps, 'v', '1', 'history', cmsgpack.pack(earlier))
if redis.call('PTTL', steps) < tonumber(ARGV[4]) then redis.call('PEXPIRE', steps, ARGV[4]) end
return earlier
