#!lua flags=allow-oom
-- Announces an event that is not logged: id token payload
local seen = call('HMGET', job_key(ARGV[2]), 'token', 'status')
if seen[1] ~= ARGV[3] or seen[2] ~= 'running' then return 'lost' end
call('PUBLISH', ROOT .. 'live', ARGV[4])
return 'ok'
