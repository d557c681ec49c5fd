#!lua flags=allow-oom
-- Erases a finished job with its events, image records, idempotency key and links: id
-- Returns 'deleted', 'not_finished' or 'not_found'.
local id = ARGV[2]
local job = read(id)
if not job then return 'not_found' end
if job.status == 'queued' or job.status == 'running' then return 'not_finished' end
local previews = ROOT .. 'pv:' .. id
for _, preview in ipairs(call('SMEMBERS', previews)) do call('DEL', ROOT .. 'img:' .. preview) end
for _, field in ipairs(call('HKEYS', job_key(id))) do
  if field:sub(1, 2) == 'i:' then call('DEL', ROOT .. 'img:' .. field:sub(3)) end
end
if job.idem and job.idem ~= '' then
  local idem = ROOT .. 'idem:' .. job.tenant .. ':' .. job.idem
  local known = call('GET', idem)
  if known and known:sub(-#id) == id then call('DEL', idem) end
end
forget_shares(id)
call('DEL', job_key(id), ROOT .. 'ev:' .. id, previews)
call('ZREM', ROOT .. 'jobs:' .. job.tenant, id)
if call('EXISTS', ROOT .. 'jobs:' .. job.tenant) == 0 then call('ZREM', ROOT .. 'seen', job.tenant) end
call('ZREM', ROOT .. 'dead', id)
call('ZREM', ROOT .. 'hooks', id)
return 'deleted'
