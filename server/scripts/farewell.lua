#!lua flags=allow-oom
-- A worker leaves: worker
call('ZREM', ROOT .. 'workers', ARGV[2])
call('HDEL', ROOT .. 'worker_info', ARGV[2])
return 'ok'
