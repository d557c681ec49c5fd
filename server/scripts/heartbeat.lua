#!lua flags=allow-oom
-- A worker says that it lives: worker info. Who was silent for ten minutes is forgotten.
local workers, infos = ROOT .. 'workers', ROOT .. 'worker_info'
call('ZADD', workers, whole(NOW), ARGV[2])
call('HSET', infos, ARGV[2], ARGV[3])
for _, silent in ipairs(call('ZRANGE', workers, '-inf', whole(NOW - 600000), 'BYSCORE')) do
  call('ZREM', workers, silent)
  call('HDEL', infos, silent)
end
call('PEXPIRE', workers, 600000)
call('PEXPIRE', infos, 600000)
note_visit()
return 'ok'
