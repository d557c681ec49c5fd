#!lua flags=allow-oom
-- Forgets a model that nobody serves, and of which nothing waits or runs: model milliseconds
-- A worker makes its model known once, when it has loaded it: one that was heard from within so many ms may live.
-- Returns 'forgotten', 'unknown', 'used' (by jobs) or 'served' (by a worker).
local model = ARGV[2]
if call('HEXISTS', ROOT .. 'models', model) == 0 then return 'unknown' end
local of = {model = model}
if call('EXISTS', wait_key(of), lease_key(of)) > 0 then return 'used' end
for _, worker in ipairs(call('ZRANGE', ROOT .. 'workers', whole(NOW - ARGV[3]), '+inf', 'BYSCORE')) do
  local info = call('HGET', ROOT .. 'worker_info', worker)
  if info and cjson.decode(info).model == model then return 'served' end
end
call('HDEL', ROOT .. 'models', model)
call('HDEL', ROOT .. 'paused', model)
return 'forgotten'
