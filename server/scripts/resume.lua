#!lua flags=allow-oom
-- Has a model's jobs leased again, everyone's where it is '': model. Returns how many pauses this ended.
local paused, model = ROOT .. 'paused', ARGV[2]
local ended = model == '' and call('HLEN', paused) or call('HDEL', paused, model)
if model == '' then call('DEL', paused) end
for _, name in ipairs(model == '' and call('HKEYS', ROOT .. 'models') or {model}) do
  call('PUBLISH', ROOT .. 'wake', name)
end
return ended
