#!lua flags=allow-oom
-- Renews leases: id token id token …
-- Returns for each 'ok', 'cancel', 'stop' or 'lost'; a worker that is told 'lost' drops the job at once.
local answers = {}
for i = 2, #ARGV, 2 do
  local seen = call('HMGET', job_key(ARGV[i]), 'token', 'status', 'model', 'cancel', 'stop')
  local answer = 'lost'
  if seen[1] == ARGV[i + 1] and seen[2] == 'running' then
    call('ZADD', ROOT .. 'lease:' .. seen[3], whole(NOW + POLICY.lease_ms), ARGV[i])
    answer = seen[4] and 'cancel' or seen[5] and 'stop' or 'ok'
  end
  answers[#answers + 1] = answer
end
return answers
