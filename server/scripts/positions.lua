#!lua flags=no-writes,allow-oom
-- Where jobs stand: model id model id … Returns position (1 is the next) and seconds until started, for each; '' where none.
local answers = {}
for i = 2, #ARGV, 2 do
  local rank = call('ZRANK', ROOT .. 'wait:' .. ARGV[i], ARGV[i + 1])
  local seconds = rank and eta(ARGV[i], rank + 1)
  answers[#answers + 1] = rank and whole(rank + 1) or ''
  answers[#answers + 1] = seconds and string.format('%.1f', seconds) or ''
end
return answers
