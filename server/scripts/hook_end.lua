#!lua flags=allow-oom
-- A webhook is delivered, or given up: id. Not fenced: who saw it taken is right, whoever holds the lease by now.
call('ZREM', ROOT .. 'hooks', ARGV[2])
return 'ok'
