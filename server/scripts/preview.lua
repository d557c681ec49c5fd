#!lua flags=allow-oom
-- Keeps a preview for as long as the events, and announces it, unlogged: id token image record payload
local seen = call('HMGET', job_key(ARGV[2]), 'token', 'status')
if seen[1] ~= ARGV[3] or seen[2] ~= 'running' then return 'lost' end
call('SET', ROOT .. 'img:' .. ARGV[4], ARGV[5])
call('SADD', ROOT .. 'pv:' .. ARGV[2], ARGV[4])
call('PUBLISH', ROOT .. 'live', ARGV[6])
return 'ok'
