#!lua flags=allow-oom
-- Whether who calls does a chore: chore token milliseconds. Returns 1 or 0. At the memory limit too: chores make room.
-- What the key holds tells an earlier attempt, whose answer was lost, from another process.
local key = ROOT .. 'lock:' .. ARGV[2]
if call('SET', key, ARGV[3], 'NX', 'PX', ARGV[4]) then return 1 end
return call('GET', key) == ARGV[3] and 1 or 0
