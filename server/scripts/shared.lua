-- What all scripts share; the loader puts it below the first line of each. Keys and fields: see server/queue.py.
-- JSON of the service's own making is never decoded and encoded again here: that would turn [] into {} and round seeds.

local ROOT = KEYS[1]
local POLICY = cjson.decode(ARGV[1])
local EVENTS_KEPT = 10000
local RATE_FADES = 0.98 -- each finished job makes what was measured before count this much less
local AFTER = 1e-6 -- the least distance behind the virtual time: what was popped stays before what was not
local CHUNK = 1000 -- Lua cannot unpack many thousands of values

local TIME = redis.call('TIME')
local NOW_US = TIME[1] * 1000000 + TIME[2]
local NOW = math.floor(NOW_US / 1000)

local call = redis.call

local function whole(x) return string.format('%.0f', x) end
local function exact(x) return string.format('%.17g', x) end
local function job_key(id) return ROOT .. 'job:' .. id end

-- ms since 1970 -> RFC 3339 (days to a civil date by the usual era arithmetic)
local function rfc3339(ms)
  local floor = math.floor
  local z = floor(ms / 86400000) + 719468
  local era = floor(z / 146097)
  local day = z - era * 146097
  local year = floor((day - floor(day / 1460) + floor(day / 36524) - floor(day / 146096)) / 365)
  day = day - (365 * year + floor(year / 4) - floor(year / 100))
  local month = floor((5 * day + 2) / 153)
  day = day - floor((153 * month + 2) / 5) + 1
  month = month < 10 and month + 3 or month - 9
  year = year + era * 400 + (month <= 2 and 1 or 0)
  local rest = ms % 86400000
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day,
    floor(rest / 3600000), floor(rest / 60000) % 60, floor(rest / 1000) % 60, rest % 1000)
end

-- limits

-- Takes a token of a bucket that holds a minute's worth and fills evenly. Returns 1 or 0 (there was none), how many are
-- left, and the seconds until there is another (0: it is full).
local function take_token(name, per_min)
  local key = ROOT .. 'bucket:' .. name
  local seen = call('HMGET', key, 'tokens', 'at')
  local tokens, us = per_min, 60000000 / per_min
  if seen[1] then tokens = math.min(per_min, tonumber(seen[1]) + math.max(0, NOW_US - seen[2]) / us) end
  local taken = tokens >= 1 and 1 or 0
  tokens = tokens - taken
  call('HSET', key, 'tokens', exact(tokens), 'at', whole(NOW_US))
  call('PEXPIRE', key, 60000) -- by then it is full, as one that is not there
  local left = math.floor(tokens)
  return taken, left, tokens >= per_min and 0 or math.ceil((left + 1 - tokens) * us / 1000000)
end

-- How many of a tenant's jobs may be leased at a time; '' is no bound. It is forgotten with its last job.
local function bound_running(tenant, bound)
  if bound == '' then
    call('HDEL', ROOT .. 'load', 'running:' .. tenant)
  else
    call('HSET', ROOT .. 'load', 'running:' .. tenant, bound)
  end
end

-- Whether a tenant has as many leased as it may have.
local function is_at_bound(tenant)
  local seen = call('HMGET', ROOT .. 'load', 'running:' .. tenant, 'active:' .. tenant, 'jobs:t:' .. tenant)
  return seen[1] and tonumber(seen[2] or 0) - tonumber(seen[3] or 0) >= tonumber(seen[1])
end

-- events

-- The only place that numbers an event.
local function append(id, name, data)
  local number = whole(call('HINCRBY', job_key(id), 'last_event', 1))
  call('XADD', ROOT .. 'ev:' .. id, 'MAXLEN', '=', EVENTS_KEPT, number .. '-0', 'name', name, 'data', data)
  call('PUBLISH', ROOT .. 'live', id .. ' ' .. number .. ' ' .. name .. ' ' .. data)
end

-- An event of the script's own: `fields` is JSON text that begins with a comma, or nothing.
local function say(id, name, trajectory, fields)
  append(id, name, '{"job_id":' .. cjson.encode(id) .. ',"trajectory":' .. trajectory
    .. ',"at":"' .. rfc3339(NOW) .. '"' .. fields .. '}')
end

-- jobs

local FIELDS = {'tenant', 'model', 'priority', 'weight', 'cost', 'n', 'status', 'place', 'deadline', 'strikes', 'cancel',
  'stop', 'pictures', 'idem', 'webhook', 'u:cost'}

local function read(id)
  local values, job = call('HMGET', job_key(id), unpack(FIELDS)), {}
  if not values[1] then return nil end
  for i, name in ipairs(FIELDS) do job[name] = values[i] end
  for _, name in ipairs({'weight', 'cost', 'n', 'place', 'strikes', 'pictures', 'u:cost'}) do
    job[name] = tonumber(job[name] or 0)
  end
  return job
end

local function flow_key(job) return ROOT .. 'flow:' .. job.priority .. ':' .. job.tenant .. ':' .. job.model end
local function flow_name(job) return job.priority .. ':' .. job.tenant end
local function wait_key(job) return ROOT .. 'wait:' .. job.model end
local function fair_key(job) return ROOT .. 'fair:' .. job.model end
local function lease_key(job) return ROOT .. 'lease:' .. job.model end

-- waiting: bounds are counted here, the order is kept here

local function count(scope, jobs, cost)
  local key = ROOT .. 'load'
  if call('HINCRBY', key, 'jobs' .. scope, jobs) <= 0 then
    call('HDEL', key, 'jobs' .. scope, 'cost' .. scope)
  else
    call('HINCRBYFLOAT', key, 'cost' .. scope, exact(cost))
  end
end

local function count_all(job, sign)
  count('', sign, sign * job.cost)
  count(':t:' .. job.tenant, sign, sign * job.cost)
  count(':m:' .. job.model, sign, sign * job.cost)
end

local function enter_wait(id, job, place)
  call('ZADD', wait_key(job), exact(place), id)
  call('SADD', flow_key(job), id)
  if job.deadline and job.deadline ~= '' then call('ZADD', ROOT .. 'due', job.deadline, id) end
  count_all(job, 1)
end

local function leave_wait(id, job)
  local place = call('ZSCORE', wait_key(job), id)
  if not place then return end
  job.place = tonumber(place) -- it may have moved up since it was written into the hash
  call('ZREM', wait_key(job), id)
  call('SREM', flow_key(job), id)
  call('ZREM', ROOT .. 'due', id)
  count_all(job, -1)
end

local function clock(job) return tonumber(call('GET', ROOT .. 'clock:' .. job.model) or 0) end

-- What a job is estimated to take of the virtual time.
local function span(job) return math.max(job.cost / job.weight, AFTER * 2) end

-- A new job's virtual finish time. A flow is a tenant at one priority, so that a high job passes its own tenant's normal ones.
local function next_place(job)
  local last = tonumber(call('ZSCORE', fair_key(job), flow_name(job)) or 0)
  local place = math.max(clock(job), last) + span(job)
  call('ZADD', fair_key(job), exact(place), flow_name(job))
  return place
end

local function idem_key(tenant, name) return ROOT .. 'idem:' .. tenant .. ':' .. name end

-- What an Idempotency-Key made before: {'replayed', id}, {'mismatch'} for another body, nil where there is nothing any more.
local function made_before(tenant, name, body_hash)
  local known = call('GET', idem_key(tenant, name))
  if not known then return nil end
  local known_hash, id = known:match('^(.*) (%S+)$')
  if call('EXISTS', job_key(id)) == 0 then return nil end
  return known_hash == body_hash and {'replayed', id} or {'mismatch'}
end

local function scores(key, ids)
  local found = {}
  for first = 1, #ids, CHUNK do
    local part = call('ZMSCORE', key, unpack(ids, first, math.min(first + CHUNK - 1, #ids)))
    for i = 1, #part do found[first + i - 1] = part[i] and tonumber(part[i]) end
  end
  return found
end

local function move_up(job, ids, by)
  for _, id in ipairs(ids) do call('ZINCRBY', wait_key(job), exact(-by), id) end
  if call('ZSCORE', fair_key(job), flow_name(job)) then call('ZINCRBY', fair_key(job), exact(-by), flow_name(job)) end
end

-- Where only one flow waits there is no one to be fair to yet, and its order is the same: what was cancelled before its
-- head is taken out of its places once it is a hundredth of them, so that many cancels do not move each job each time.
local function close_gap(job, ids, back)
  local id, place = unpack(call('ZRANGE', wait_key(job), 0, 0, 'WITHSCORES'))
  local first = read(id)
  local gap = first and tonumber(place) - clock(job) - span(first) or 0
  if gap > math.abs(back) * #ids / 100 then move_up(job, ids, gap) end
end

-- An ended job is charged for what it used: what its flow has waiting behind it moves up by the rest, never before the
-- virtual time. A flow of which nothing waits owes nothing: what was leased of it lies before that time.
local function settle(job, used)
  local back, ids = (job.cost - used) / job.weight, call('SMEMBERS', flow_key(job))
  if #ids == 0 then return call('ZREM', fair_key(job), flow_name(job)) end
  if math.abs(back) < AFTER then return end
  if #ids == call('ZCARD', wait_key(job)) then return close_gap(job, ids, back) end
  local behind, head, places, now = {}, math.huge, scores(wait_key(job), ids), clock(job)
  for i, id in ipairs(ids) do
    -- What was given back stands before the virtual time, and stays.
    if places[i] and places[i] > math.max(job.place, now) then
      behind[#behind + 1] = id
      head = math.min(head, places[i])
    end
  end
  if #behind > 0 then back = math.min(back, head - now - AFTER) end
  move_up(job, behind, back)
end

-- the measured rate: cost by the estimates of jobs that succeeded, over the time in which anything was leased

local RATE_TTL_MS = 3600 * 1000

local function begin_measuring(model)
  call('HSET', ROOT .. 'rate:' .. model, 'mark', whole(NOW_US))
  call('PEXPIRE', ROOT .. 'rate:' .. model, RATE_TTL_MS)
end

local function measure(job)
  local key = ROOT .. 'rate:' .. job.model
  local seen = call('HMGET', key, 'mark', 'cost', 'time')
  if not seen[1] then return end
  call('HSET', key, 'mark', whole(NOW_US),
    'cost', exact(tonumber(seen[2] or 0) * RATE_FADES + job.cost),
    'time', exact(tonumber(seen[3] or 0) * RATE_FADES + (NOW_US - seen[1]) / 1000000))
  call('PEXPIRE', key, RATE_TTL_MS)
end

-- Whether nothing is leased of a model, because an operator said so.
local function is_paused(model)
  local paused = ROOT .. 'paused'
  return call('HEXISTS', paused, model) == 1 or call('HEXISTS', paused, '') == 1
end

-- Seconds until `cost` is worked off, nil before anything was measured.
local function seconds_for(model, cost)
  local seen = call('HMGET', ROOT .. 'rate:' .. model, 'cost', 'time')
  local done, time = tonumber(seen[1] or 0), tonumber(seen[2] or 0)
  if done <= 0 or time <= 0 then return nil end
  return cost * time / done
end

-- Seconds until the job at `position` (1 is the next) is started, nil where nobody knows.
local function eta(model, position)
  if is_paused(model) then return nil end
  local waiting = call('HMGET', ROOT .. 'load', 'cost:m:' .. model, 'jobs:m:' .. model)
  local jobs = tonumber(waiting[2] or 0)
  if jobs <= 0 then return nil end
  return seconds_for(model, position * tonumber(waiting[1] or 0) / jobs)
end

-- the end

local function keep_for(ttl, ...)
  if ttl == cjson.null then return end
  for _, key in ipairs({...}) do call('PEXPIRE', key, ttl) end
end

-- Links to a job end with it.
local function shares(id) return call('SMEMBERS', ROOT .. 'shares:' .. id) end

local function forget_shares(id)
  for _, digest in ipairs(shares(id)) do call('DEL', ROOT .. 'share:' .. digest) end
  call('DEL', ROOT .. 'shares:' .. id)
end

local function begin_lifetimes(id, job, ttl)
  local previews = ROOT .. 'pv:' .. id
  keep_for(POLICY.event_ttl_ms, ROOT .. 'ev:' .. id, previews)
  for _, preview in ipairs(call('SMEMBERS', previews)) do keep_for(POLICY.event_ttl_ms, ROOT .. 'img:' .. preview) end
  keep_for(ttl, job_key(id))
  if ttl ~= cjson.null then
    for _, digest in ipairs(shares(id)) do call('PEXPIRE', ROOT .. 'share:' .. digest, ttl, 'LT') end
    call('PEXPIRE', ROOT .. 'shares:' .. id, ttl, 'LT')
  end
  for _, field in ipairs(call('HKEYS', job_key(id))) do
    if field:sub(1, 2) == 'i:' then keep_for(ttl, ROOT .. 'img:' .. field:sub(3)) end
  end
  if call('HINCRBY', ROOT .. 'load', 'active:' .. job.tenant, -1) <= 0 then
    call('HDEL', ROOT .. 'load', 'active:' .. job.tenant, 'running:' .. job.tenant)
    local listed = POLICY.job_ttl_ms
    if listed ~= cjson.null then listed = math.max(listed, POLICY.poisoned_ttl_ms) end
    keep_for(listed, ROOT .. 'jobs:' .. job.tenant)
    if call('EXISTS', ROOT .. 'load') == 0 then keep_for(POLICY.job_ttl_ms, ROOT .. 'seen') end -- nobody has any left
  end
end

-- Whether a webhook asks for this end; one that names no events asks for every one.
local function asks_for(webhook, event)
  local events = cjson.decode(webhook).events
  if type(events) ~= 'table' then return true end
  for _, name in ipairs(events) do
    if name == event then return true end
  end
  return false
end

-- The only place that ends a job: exactly one terminal event, and it is the last. `problem` is JSON text or nil; `ttl` is
-- how long the job is kept where that is not as long as any.
local function finish(id, job, status, problem, ttl)
  if job.status == 'queued' then leave_wait(id, job) else call('ZREM', lease_key(job), id) end
  call('HSET', job_key(id), 'status', status, 'finished', whole(NOW))
  if problem then call('HSET', job_key(id), 'error', problem) end
  settle(job, job['u:cost'])
  if status == 'succeeded' then measure(job) end
  if call('EXISTS', wait_key(job), lease_key(job)) == 0 then
    call('DEL', ROOT .. 'clock:' .. job.model, fair_key(job))
  end
  say(id, 'job.' .. status, 'null', problem and ',"error":' .. problem or '')
  if job.webhook and asks_for(job.webhook, 'job.' .. status) then call('ZADD', ROOT .. 'hooks', whole(NOW), id) end
  local kept = ttl or POLICY.job_ttl_ms
  -- Where jobs are kept until their pictures take too much room, nothing else would ever end one that has none.
  if kept == cjson.null and status ~= 'succeeded' and job.pictures == 0 then
    kept = POLICY.poisoned_ttl_ms
  end
  begin_lifetimes(id, job, kept)
end

local function fail(id, job, code, message, ttl)
  finish(id, job, 'failed', '{"code":"' .. code .. '","message":' .. cjson.encode(message) .. '}', ttl)
end

local function public_form(id, image_id)
  local stored = call('HGET', job_key(id), 'i:' .. image_id)
  if not stored then return 'null' end
  local record = cjson.decode(stored)
  return '{"id":' .. cjson.encode(image_id) .. ',"url":' .. cjson.encode('/images/' .. image_id)
    .. ',"width":' .. whole(record.width) .. ',"height":' .. whole(record.height)
    .. ',"format":' .. cjson.encode(record.format) .. ',"sha256":' .. cjson.encode(record.sha256) .. '}'
end

local OPEN = '"stop_reason":null' -- quotes inside a JSON string are escaped, so no text of the user's can look like this

-- The round whose picture a trajectory comes to, as Trajectory.result says it; nil where it has none.
local function result_of(trajectory)
  local rounds, asked = trajectory.rounds, trajectory.request
  local scorer = asked.scorers and asked.scorers[1]
  if not scorer or asked.choose ~= 'best' then return rounds[#rounds] end
  local best, most
  for _, made in ipairs(rounds) do
    local value = -math.huge
    for _, score in ipairs(made.scores) do
      if score.scorer == scorer and score.value ~= cjson.null then value = score.value end
    end
    if not best or value > most then best, most = made, value end
  end
  return best
end

-- Counts the pictures of a judged trajectory that its result was not made from, as far as they are not counted yet.
local function count_discarded(id, trajectory)
  local rounds, asked = trajectory.rounds, trajectory.request
  if not asked.scorers or #asked.scorers == 0 then return end
  local kept, made = {}, result_of(trajectory)
  while made do
    kept[made.image.id] = true
    made = made.base ~= cjson.null and rounds[made.base + 1] or nil
  end
  local images, forwards = -trajectory.usage.discarded_images, -trajectory.usage.discarded_forwards
  for _, drawn in ipairs(rounds) do
    local pictures = #drawn.candidates > 0 and drawn.candidates or {drawn}
    for _, picture in ipairs(asked.given_image and drawn.index == 0 and {} or pictures) do
      if not kept[picture.image.id] then
        images, forwards = images + 1, forwards + picture.forwards
      end
    end
  end
  call('HINCRBYFLOAT', job_key(id), 'u:discarded_images', exact(images))
  call('HINCRBYFLOAT', job_key(id), 'u:discarded_forwards', exact(forwards))
end

-- Whether a job is of another kind than a generation: its trajectory's end is not told, and half of it is no result.
local function is_task(id)
  local asked = cjson.decode(call('HGET', job_key(id), 'request') or '{}').request or {}
  return (asked.kind or 'generate') ~= 'generate'
end

-- Ends a job that no worker holds with what is finished of it: what a worker does for one in its hands.
local function finish_with_pictures(id, job, reason)
  local is_told = not is_task(id)
  for i = 0, job.n - 1 do
    local text, image = call('HGET', job_key(id), 't:' .. i), 'null'
    local first, last = (text or OPEN):find(OPEN, 1, true)
    if first then
      if text then
        local ended = text:sub(1, first - 1) .. '"stop_reason":"' .. reason .. '"' .. text:sub(last + 1)
        call('HSET', job_key(id), 't:' .. i, ended)
        local trajectory = cjson.decode(text)
        local result = result_of(trajectory)
        if result then image = public_form(id, result.image.id) end
        count_discarded(id, trajectory)
      end
      if is_told then
        say(id, 'trajectory.done', whole(i), ',"stop_reason":"' .. reason .. '","image":' .. image)
      end
    end
  end
  call('HSET', job_key(id), 'stop_reason', reason)
  finish(id, job, 'succeeded')
end

-- leases

-- Whether a worker's call may write: 'lost' where the job is no longer its own, 'ok' where this very call was made before,
-- nil where it may.
local function fenced(id, token, number)
  local seen = call('HMGET', job_key(id), 'token', 'call', 'status')
  if seen[1] ~= token then return 'lost' end
  if tonumber(number) <= tonumber(seen[2] or 0) then return 'ok' end
  if seen[3] ~= 'running' then return 'lost' end
  return nil
end

local function remember_call(id, number) call('HSET', job_key(id), 'call', number) end

-- A leased job back to where it stood, unless its end was asked for meanwhile.
local function put_back(id, job)
  call('HINCRBY', job_key(id), 'token', 1)
  if job.cancel then return finish(id, job, 'cancelled') end
  if job.stop and job.pictures > 0 then return finish_with_pictures(id, job, 'stopped') end
  call('ZREM', lease_key(job), id)
  call('HSET', job_key(id), 'status', 'queued')
  enter_wait(id, job, job.place)
  call('PUBLISH', ROOT .. 'wake', job.model)
end

-- Gives a job up, and keeps it for an operator to look at and to try again.
local function poison(id, job)
  local dead, kept = ROOT .. 'dead', POLICY.job_ttl_ms
  if kept ~= cjson.null then kept = math.max(kept, POLICY.poisoned_ttl_ms) end
  call('ZADD', dead, whole(NOW), id)
  call('ZREMRANGEBYSCORE', dead, '-inf', whole(NOW - POLICY.poisoned_ttl_ms))
  call('PEXPIRE', dead, POLICY.poisoned_ttl_ms)
  call('HINCRBY', ROOT .. 'stats', 'poisoned', 1)
  call('HINCRBY', job_key(id), 'token', 1)
  local message = 'its worker was lost %d times before it had finished another picture; it is not tried again'
  fail(id, job, 'poison_job', message:format(job.strikes), kept)
end

-- A job whose worker is gone, or cannot go on: back to the queue, or given up.
local function reclaim(id, job)
  call('HINCRBY', ROOT .. 'stats', 'reclaimed', 1)
  local ends = job.cancel or (job.stop and job.pictures > 0)
  if job.strikes >= POLICY.max_strikes and not ends then poison(id, job) else put_back(id, job) end
end

-- Notes that somebody who comes every few seconds was here. Returns whether leases may be taken back: after a silence
-- nobody could renew, and who lives is given time to, or an outage would cost each job a strike and its round in hand. A
-- clock that jumps looks the same.
local function note_visit()
  local key, half = ROOT .. 'visits', POLICY.lease_ms / 2
  local silence = math.max(half, 3000) -- a sweep comes every second, where its process is not held up
  local seen = call('HMGET', key, 'last', 'reap_from')
  local from = tonumber(seen[2] or 0)
  if seen[1] and math.abs(NOW - tonumber(seen[1])) > silence then from = NOW + half end
  if from > NOW + half then from = 0 end -- the clock went back
  call('HSET', key, 'last', whole(NOW), 'reap_from', whole(from))
  call('PEXPIRE', key, 86400000)
  return NOW >= from
end

-- Takes back the leases of a model that have expired.
local function reap(model)
  local ids = call('ZRANGE', ROOT .. 'lease:' .. model, '-inf', whole(NOW), 'BYSCORE', 'LIMIT', 0, 100)
  for _, id in ipairs(ids) do
    local job = read(id)
    if not job then
      call('ZREM', ROOT .. 'lease:' .. model, id)
    else
      reclaim(id, job)
    end
  end
  return #ids
end

-- Ends waiting jobs whose deadline has passed: with what is finished, else as failed.
local function end_overdue()
  local ids = call('ZRANGE', ROOT .. 'due', '-inf', whole(NOW), 'BYSCORE', 'LIMIT', 0, 100)
  for _, id in ipairs(ids) do
    local job = read(id)
    if not job or job.status ~= 'queued' then
      call('ZREM', ROOT .. 'due', id)
    elseif is_task(id) then
      fail(id, job, 'deadline_exceeded', 'its deadline passed before it was finished')
    elseif job.pictures > 0 then
      finish_with_pictures(id, job, 'deadline')
    else
      fail(id, job, 'deadline_exceeded', 'its deadline passed before its first picture was finished')
    end
  end
  return #ids
end
