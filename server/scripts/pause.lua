#!lua flags=allow-oom
-- Has nothing more leased of a model, of any where it is '': model
call('HSETNX', ROOT .. 'paused', ARGV[2], whole(NOW))
return 'ok'
