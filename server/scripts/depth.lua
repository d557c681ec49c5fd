#!lua flags=no-writes,allow-oom
-- Numbers for metrics and operators, as JSON text: of every model that was loaded, has jobs waiting or is paused.
local function number(text) return tonumber(text or 0) end
local function oldest_s(model)
  local first = NOW
  for _, id in ipairs(call('ZRANGE', ROOT .. 'wait:' .. model, 0, -1)) do
    first = math.min(first, number(call('HGET', job_key(id), 'created') or NOW))
  end
  return (NOW - first) / 1000
end

local names = {}
for _, model in ipairs(call('HKEYS', ROOT .. 'models')) do names[model] = true end
for _, field in ipairs(call('HKEYS', ROOT .. 'load')) do
  local model = field:match('^jobs:m:(.*)$')
  if model then names[model] = true end
end

for _, model in ipairs(call('HKEYS', ROOT .. 'paused')) do
  if model ~= '' then names[model] = true end
end

local models, running, oldest = {}, 0, 0
for model in pairs(names) do
  local cost = number(call('HGET', ROOT .. 'load', 'cost:m:' .. model))
  local here = {
    waiting = call('ZCARD', ROOT .. 'wait:' .. model),
    running = call('ZCARD', ROOT .. 'lease:' .. model),
    cost = cost,
    oldest_s = oldest_s(model),
    paused = is_paused(model) and 1 or 0,
    seconds_left = seconds_for(model, cost),
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
  all_paused = call('HEXISTS', ROOT .. 'paused', ''),
}
local shown = cjson.encode(total)
return shown:sub(1, -2) .. ',"models":' .. (next(models) and cjson.encode(models) or '{}') .. '}'
