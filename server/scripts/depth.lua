#!lua flags=no-writes,allow-oom
-- Numbers for metrics, as JSON text.
local function number(text) return tonumber(text or 0) end
local function oldest_s(model)
  local first = NOW
  for _, id in ipairs(call('ZRANGE', ROOT .. 'wait:' .. model, 0, -1)) do
    first = math.min(first, number(call('HGET', job_key(id), 'created') or NOW))
  end
  return (NOW - first) / 1000
end

local models, running, oldest = {}, 0, 0
for _, model in ipairs(call('HKEYS', ROOT .. 'models')) do
  local here = {
    waiting = call('ZCARD', ROOT .. 'wait:' .. model),
    running = call('ZCARD', ROOT .. 'lease:' .. model),
    cost = number(call('HGET', ROOT .. 'load', 'cost:m:' .. model)),
    oldest_s = oldest_s(model),
  }
  models[model] = here
  running = running + here.running
  oldest = math.max(oldest, here.oldest_s)
end
local total = {
  waiting = number(call('HGET', ROOT .. 'load', 'jobs')),
  running = running,
  cost = number(call('HGET', ROOT .. 'load', 'cost')),
  oldest_s = oldest,
  reclaimed = number(call('HGET', ROOT .. 'stats', 'reclaimed')),
  poisoned = number(call('HGET', ROOT .. 'stats', 'poisoned')),
}
local shown = cjson.encode(total)
return shown:sub(1, -2) .. ',"models":' .. (next(models) and cjson.encode(models) or '{}') .. '}'
