-- Standing: how an event stands, for those who only look.
-- KEYS: 1 row HASH
-- ARGV: 1 run_id of the server (unused)
-- Reply: {} without a row | {live, gen, state, kind, due_at_ms, cancel}, each '' where it is not set
local found = redis.call('HMGET', KEYS[1], 'v', 'live', 'gen', 'state', 'kind', 'due_at_ms', 'cancel')
if not found[1] then return {} end
if found[1] ~= '1' then return redis.error_reply('LAYOUT the row has an unknown version') end
local reply = {}
for i = 2, 7 do reply[i - 1] = found[i] or '' end
return reply
