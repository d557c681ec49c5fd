#!lua
-- Keeps a new key: id record. No allow-oom: at the memory limit nothing new is taken.
-- From the first one on authentication is on, for ever. Returns 'first', 'created', or 'again' where it was there.
local since = call('HSETNX', ROOT .. 'auth', 'since', whole(NOW))
local made = call('HSETNX', ROOT .. 'keys', ARGV[2], ARGV[3])
call('HSET', ROOT .. 'auth', 'changed', whole(NOW_US))
if made == 0 then return 'again' end
return since == 1 and 'first' or 'created'
