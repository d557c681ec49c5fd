#!lua flags=allow-oom
-- A tenant's webhook secret: tenant act candidate call grace_ms
--   sign     {current, previous or ''}: what to sign with; the candidate becomes the first secret
--   show     {current} once, to the first call that asks; {} to all others
--   rotate   {candidate}, the secret from now on; the one before is signed with too until the grace is over
local key, act, candidate, caller, grace = ROOT .. 'hook_secret:' .. ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
call('HSETNX', key, 'current', candidate)
local stored = call('HMGET', key, 'current', 'previous', 'previous_until', 'shown')
if act == 'sign' then
  local is_good = stored[2] and NOW < tonumber(stored[3])
  return {stored[1], is_good and stored[2] or ''}
end
if stored[4] == caller then return {stored[1]} end -- this very call, after a lost answer
if act == 'show' and stored[4] then return {} end
if act == 'rotate' and stored[1] ~= candidate then
  call('HSET', key, 'current', candidate, 'previous', stored[1], 'previous_until', whole(NOW + tonumber(grace)))
end
call('HSET', key, 'shown', caller)
return {call('HGET', key, 'current')}
