#!lua flags=no-writes,allow-oom
-- The workers heard from in the last so many ms: id, age in ms, info, …
local rows = {}
local alive = call('ZRANGE', ROOT .. 'workers', whole(NOW - ARGV[2]), '+inf', 'BYSCORE', 'WITHSCORES')
for i = 1, #alive, 2 do
  local info = call('HGET', ROOT .. 'worker_info', alive[i])
  rows[#rows + 1] = alive[i]
  rows[#rows + 1] = whole(NOW - alive[i + 1])
  rows[#rows + 1] = info or '{}'
end
return rows
