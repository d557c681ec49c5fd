#!lua flags=allow-oom
-- Gives a worker jobs for as many trajectories as it has room for.
-- model worker call room holding reads
-- `reads` is the newest version of stored requests and trajectories that the worker knows.
-- Returns {rows, newer}: rows {id, token, alone, {field, value, …}}, the same where the same call is made again, and the
-- ids of jobs that were passed over, because a newer build stored them.
local model, room, holding, reads = ARGV[2], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local PASSED_OVER = 100
local wait, lease = ROOT .. 'wait:' .. model, ROOT .. 'lease:' .. model
local memo = ROOT .. 'leased:' .. ARGV[3]

local function row(id, token, alone) return {id, token, alone, call('HGETALL', job_key(id))} end

-- Whether the worker can read what is stored of a job. The first of such a name is ours: quotes inside a JSON string are
-- escaped, so that no text of the user's can look like it.
local function is_readable(id, job)
  local fields = {'request'}
  for i = 0, job.n - 1 do fields[#fields + 1] = 't:' .. i end
  for _, text in ipairs(call('HMGET', job_key(id), unpack(fields))) do
    local version = text and text:match('"version":(%d+)')
    if version and tonumber(version) > reads then return false end
  end
  return true
end

-- For each trajectory its last finished round, null where it has none.
local function rounds_so_far(id, job)
  local rounds = {}
  for i = 0, job.n - 1 do
    local text = call('HGET', job_key(id), 't:' .. i)
    local made = text and #cjson.decode(text).rounds or 0
    rounds[#rounds + 1] = made > 0 and whole(made - 1) or 'null'
  end
  return '[' .. table.concat(rounds, ',') .. ']'
end

local function take(id, job)
  leave_wait(id, job)
  local clock_key = ROOT .. 'clock:' .. model
  local at = math.max(clock(job), job.place)
  call('SET', clock_key, exact(at))
  call('ZREMRANGEBYSCORE', ROOT .. 'fair:' .. model, '-inf', exact(at))
  if call('EXISTS', lease) == 0 then begin_measuring(model) end
  call('ZADD', lease, whole(NOW + POLICY.lease_ms), id)
  local token = call('HINCRBY', job_key(id), 'token', 1)
  local attempt = call('HINCRBY', job_key(id), 'attempt', 1)
  call('HINCRBY', job_key(id), 'strikes', 1)
  call('HSET', job_key(id), 'status', 'running', 'place', exact(job.place), 'call', 0)
  call('HSETNX', job_key(id), 'started', whole(NOW))
  say(id, 'job.started', 'null', ',"attempt":' .. whole(attempt)
    .. ',"resumed_from_round":' .. (attempt > 1 and rounds_so_far(id, job) or 'null'))
  return whole(token)
end

-- The first that waits and whose tenant may have another leased; those that are passed over keep their places.
local passed, held = 0, {}
local function next_id()
  while true do
    local id = call('ZRANGE', wait, passed, passed)[1]
    local tenant = id and call('HGET', job_key(id), 'tenant')
    if not tenant then return id end
    held[tenant] = held[tenant] or is_at_bound(tenant)
    if not held[tenant] then return id end
    passed = passed + 1
  end
end

if call('HGET', memo, 'call') == ARGV[4] then
  local rows = {}
  for _, given in ipairs(cjson.decode(call('HGET', memo, 'jobs'))) do
    if call('HGET', job_key(given[1]), 'token') == given[2] then rows[#rows + 1] = row(unpack(given)) end
  end
  return {rows, {}}
end

if note_visit() then reap(model) end
end_overdue()
if is_paused(model) then return {{}, {}} end
local rows, given, newer = {}, {}, {}
while room > 0 and #newer < PASSED_OVER do
  local id = next_id()
  if not id then break end
  local job = read(id)
  if not job then
    call('ZREM', wait, id)
  elseif not is_readable(id, job) then
    newer[#newer + 1] = id
    passed = passed + 1
  else
    -- What has killed all but its last worker goes alone, so that only the killer reaches its last strike; and what needs
    -- more room than there is waits at the head for it, or smaller jobs would pass it for ever.
    local alone = job.strikes > 0 and job.strikes >= POLICY.max_strikes - 1
    local idle = holding == 0 and #rows == 0
    if (alone or job.n > room) and not idle then break end
    local token = take(id, job)
    rows[#rows + 1] = row(id, token, alone and '1' or '0')
    given[#given + 1] = {id, token, alone and '1' or '0'}
    room = alone and 0 or room - job.n
  end
end
if #given > 0 then
  call('HSET', memo, 'call', ARGV[4], 'jobs', cjson.encode(given))
  call('PEXPIRE', memo, POLICY.lease_ms)
end
return {rows, newer}
