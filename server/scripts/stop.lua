#!lua flags=allow-oom
-- Good enough: ends a job with what is finished of it: id
-- Returns 'accepted', 'no_image_yet', 'already_finished' or 'not_found'.
local id = ARGV[2]
local job = read(id)
if not job then return 'not_found' end
local over = job.status ~= 'queued' and job.status ~= 'running'
if over then return job.stop and job.status == 'succeeded' and 'accepted' or 'already_finished' end
if job.pictures == 0 then return 'no_image_yet' end
call('HSET', job_key(id), 'stop', 1)
if job.status == 'queued' then
  finish_with_pictures(id, job, 'stopped')
else
  call('PUBLISH', ROOT .. 'ctl', 'stop ' .. id)
end
return 'accepted'
