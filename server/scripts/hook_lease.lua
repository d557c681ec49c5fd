#!lua flags=allow-oom
-- Hands out webhooks that are due, each to one caller until its lease is over: claim k lease_ms
-- Returns id, tenant, fence, tries, ms since the job's end, …; no tenant: the job is gone, and its webhook with it.
local claim, k, lease = ROOT .. 'hooked:' .. ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local given = call('LRANGE', claim, 0, -1)
if #given > 0 then return given end -- this very call, after a lost answer
local hooks = ROOT .. 'hooks'
for _, id in ipairs(call('ZRANGE', hooks, '-inf', whole(NOW), 'BYSCORE', 'LIMIT', 0, k)) do
  local job, row = call('HMGET', job_key(id), 'tenant', 'finished', 'hook_tries'), {id, '', '0', '0', '0'}
  if job[1] then
    row = {id, job[1], whole(call('HINCRBY', job_key(id), 'hook', 1)), job[3] or '0', whole(NOW - job[2])}
    call('ZADD', hooks, 'XX', whole(NOW + lease), id)
  else
    call('ZREM', hooks, id)
  end
  call('RPUSH', claim, unpack(row))
  for _, value in ipairs(row) do given[#given + 1] = value end
end
if #given > 0 then call('PEXPIRE', claim, lease) end
return given
