#!lua flags=allow-oom
-- Ends a waiting job, asks the worker of a leased one to: id
-- Returns 'accepted', 'already_finished' or 'not_found'.
local id = ARGV[2]
local job = read(id)
if not job then return 'not_found' end
if job.status == 'queued' then
  finish(id, job, 'cancelled')
elseif job.status == 'running' then
  call('HSET', job_key(id), 'cancel', 1)
  call('PUBLISH', ROOT .. 'ctl', 'cancel ' .. id)
elseif job.status ~= 'cancelled' then
  return 'already_finished'
end
return 'accepted'
