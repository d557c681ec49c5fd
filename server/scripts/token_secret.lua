#!lua flags=allow-oom
-- The secret of signed links, which is made once: candidate. Returns the one that holds.
local key = ROOT .. 'token_secret'
call('SET', key, ARGV[2], 'NX')
return call('GET', key)
