-- Claim: store the end itself unless one is stored; the first claim wins, but one that cannot be published gives way.
-- KEYS: 1 row HASH
-- ARGV: 1 run_id of the server (unused), 2 "<gen>@<run_id>" as Take gave it, 3 kind, 4 the packed end, 5 open keeping ms,
--       6 the kind of a stored claim that is replaced ('' = none)
-- Reply: {'claimed'} ours counts | {'claimed', packed end} an earlier one counts | {'already-done'} | {'take-again'}
local row, open_ms, gen = KEYS[1], tonumber(ARGV[5]), string.match(ARGV[2], '^[^@]*')
local found = redis.call('HMGET', row, 'v', 'gen', 'state', 'kind')
if found[1] and found[1] ~= '1' then return redis.error_reply('LAYOUT the row has an unknown version') end
if found[2] and found[2] ~= gen then return {'take-again'} end
if found[3] == 'done' then return {'already-done'} end
if found[3] == 'claimed' and found[4] ~= ARGV[6] then return {'claimed', redis.call('HGET', row, 'end')} end
-- Without a row (flushed) one is made with our gen and `live` unset: any copy may finish this end.
redis.call('HSET', row, 'v', '1', 'gen', gen, 'state', 'claimed', 'kind', ARGV[3], 'end', ARGV[4])
if redis.call('PTTL', row) < open_ms then redis.call('PEXPIRE', row, open_ms) end
return {'claimed'}
