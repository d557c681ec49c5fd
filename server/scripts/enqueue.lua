#!lua
-- Puts a job into its queue. No allow-oom: at the memory limit nothing new is taken.
-- id tenant model priority weight cost n idempotency_key body_hash deadline request params metadata parent webhook
-- queued running jobs_per_min: the tenant's quotas, '' where it has none.
-- Returns {'new', id, and of each quota that there is what is left: queued, jobs, seconds until another},
-- {'replayed', id}, {'mismatch'}, {'full', 'server' or 'tenant', seconds}, or {'limited', seconds}.
local id, idem_name, body_hash = ARGV[2], ARGV[9], ARGV[10]
local job = {tenant = ARGV[3], model = ARGV[4], priority = ARGV[5], weight = tonumber(ARGV[6]), cost = tonumber(ARGV[7]),
  deadline = ARGV[11]}
local queued_limit, running_limit, per_min = tonumber(ARGV[17]), ARGV[18], tonumber(ARGV[19])

if call('EXISTS', job_key(id)) == 1 then return {'new', id} end -- this very call, after a lost answer

local before = idem_name ~= '' and made_before(job.tenant, idem_name, body_hash)
if before then return before end

-- A job that alone is above the bound in cost is taken when nothing waits: else it could never run.
local function refused(scope, whose, jobs_limit, cost_limit)
  local waiting = call('HMGET', ROOT .. 'load', 'jobs' .. scope, 'cost' .. scope)
  local jobs, cost = tonumber(waiting[1] or 0), tonumber(waiting[2] or 0)
  local over = math.max(cost + job.cost - cost_limit, jobs >= jobs_limit and cost / math.max(jobs, 1) or 0)
  if over <= 0 or jobs == 0 then return nil end
  local seconds = is_paused(job.model) and math.huge or seconds_for(job.model, over) or 10
  return {'full', whose, whole(math.min(math.max(math.ceil(seconds), 1), 120))}
end
local full = refused('', 'server', POLICY.jobs, POLICY.cost)
  or refused(':t:' .. job.tenant, 'tenant', queued_limit or POLICY.tenant_jobs, POLICY.tenant_cost)
if full then return full end

local jobs_left, jobs_in = '', ''
if per_min then
  local taken, left, seconds = take_token('jobs:' .. job.tenant, per_min)
  if taken == 0 then return {'limited', seconds} end
  jobs_left, jobs_in = left, seconds
end

local place = next_place(job)
call('HSET', job_key(id), 'tenant', job.tenant, 'model', job.model, 'priority', job.priority, 'weight', ARGV[6],
  'cost', ARGV[7], 'n', ARGV[8], 'idem', idem_name, 'body_hash', body_hash, 'deadline', job.deadline,
  'request', ARGV[12], 'params', ARGV[13], 'metadata', ARGV[14],
  'status', 'queued', 'created', whole(NOW), 'place', exact(place))
if ARGV[15] ~= '' then call('HSET', job_key(id), 'parent', ARGV[15]) end
if ARGV[16] ~= '' then call('HSET', job_key(id), 'webhook', ARGV[16]) end
if idem_name ~= '' then call('SET', idem_key(job.tenant, idem_name), body_hash .. ' ' .. id, 'PX', POLICY.idem_ttl_ms) end
enter_wait(id, job, place)

-- The tenant's list: it stays while a job is under way, and what is gone is struck off bit by bit: from its old end, and
-- here and there, for jobs that wait for long may stand before what is gone.
local index = ROOT .. 'jobs:' .. job.tenant
for _, some in ipairs({call('ZRANGE', index, 0, 4), call('ZRANDMEMBER', index, 5)}) do
  for _, old in ipairs(some) do
    if call('EXISTS', job_key(old)) == 0 then call('ZREM', index, old) end
  end
end
local made = NOW_US
while call('ZCOUNT', index, whole(made), whole(made)) > 0 do made = made + 1 end
call('ZADD', index, whole(made), id)
call('PERSIST', index)
call('ZADD', ROOT .. 'seen', whole(NOW), job.tenant)
call('PERSIST', ROOT .. 'seen')
call('HINCRBY', ROOT .. 'load', 'active:' .. job.tenant, 1)
bound_running(job.tenant, running_limit)

local position = call('ZRANK', wait_key(job), id) + 1
local seconds = eta(job.model, position)
say(id, 'job.queued', 'null', ',"position":' .. whole(position)
  .. ',"eta_s":' .. (seconds and string.format('%.1f', seconds) or 'null'))
call('PUBLISH', ROOT .. 'wake', job.model)
local queued_left = ''
if queued_limit then queued_left = math.max(0, queued_limit - call('HGET', ROOT .. 'load', 'jobs:t:' .. job.tenant)) end
return {'new', id, queued_left, jobs_left, jobs_in}
