#!lua flags=allow-oom
-- Gives a leased webhook back, to be tried again: id fence tries delay_ms
-- Returns 'ok', or 'lost' where another has leased it since, or it is done.
local id, fence, tries, delay = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local hooks = ROOT .. 'hooks'
if call('HGET', job_key(id), 'hook') ~= fence or not call('ZSCORE', hooks, id) then return 'lost' end
call('HSET', job_key(id), 'hook_tries', tries)
call('ZADD', hooks, 'XX', whole(NOW + delay), id)
return 'ok'
