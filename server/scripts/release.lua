#!lua flags=allow-oom
-- Gives a leased job back at its old place: id token forgive; '1' takes back the strike that the lease cost.
-- Returns 'ok', or 'lost' where it was not this worker's any more (or was given back before).
local id = ARGV[2]
local seen = call('HMGET', job_key(id), 'token', 'status')
if seen[1] ~= ARGV[3] or seen[2] ~= 'running' then return 'lost' end
local job = read(id)
if ARGV[4] == '1' then
  if job.strikes > 0 then call('HINCRBY', job_key(id), 'strikes', -1) end -- else a checkpoint took it back already
  put_back(id, job)
else
  reclaim(id, job)
end
return 'ok'
