#!lua flags=allow-oom
-- Keeps the description of a model that was loaded, without expiry: name description
call('HSET', ROOT .. 'models', ARGV[2], ARGV[3])
return 'ok'
