#!lua flags=allow-oom
-- Makes a key no longer good: id record, the record with the time. Returns 'revoked' or 'not_found'.
if call('HEXISTS', ROOT .. 'keys', ARGV[2]) == 0 then return 'not_found' end
call('HSET', ROOT .. 'keys', ARGV[2], ARGV[3])
call('HSET', ROOT .. 'auth', 'changed', whole(NOW_US))
return 'revoked'
