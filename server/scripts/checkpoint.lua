#!lua flags=allow-oom
-- Stores what was finished, announces it and, where the job is at its end, ends it: all or nothing.
-- id token call checkpoint index trajectory usage status error images, then image record …, then name data …
-- `index` and `trajectory` are '' where none is stored, `status` and `error` '' before the end; `usage` is what was added.
-- Returns 'ok' or 'lost'; an error where the checkpoint is not the job's next.
local id, index, status = ARGV[2], ARGV[6], ARGV[9]
local key = job_key(id)

local refusal = fenced(id, ARGV[3], ARGV[4])
if refusal then return refusal end
local made = tonumber(call('HGET', key, 'checkpoint') or 0)
if tonumber(ARGV[5]) ~= made + 1 then
  return redis.error_reply('OUT_OF_ORDER checkpoint ' .. ARGV[5] .. ' of ' .. id .. ' comes after ' .. whole(made))
end
remember_call(id, ARGV[4])

call('HSET', key, 'checkpoint', ARGV[5], 'strikes', 0)
if index ~= '' then call('HSET', key, 't:' .. index, ARGV[7]) end
for name, spent in pairs(cjson.decode(ARGV[8])) do call('HINCRBYFLOAT', key, 'u:' .. name, exact(spent)) end
local images = tonumber(ARGV[11])
for i = 12, 10 + 2 * images, 2 do
  call('HSET', key, 'i:' .. ARGV[i], ARGV[i + 1])
  call('SET', ROOT .. 'img:' .. ARGV[i], ARGV[i + 1])
end
if images > 0 then call('HINCRBY', key, 'pictures', images) end
for i = 12 + 2 * images, #ARGV, 2 do append(id, ARGV[i], ARGV[i + 1]) end

if status ~= '' then
  local job = read(id)
  if job.cancel then status = 'cancelled' end -- its cancel was accepted before this
  finish(id, job, status, status == 'failed' and ARGV[10] ~= '' and ARGV[10] or nil)
end
return 'ok'
