#!lua flags=allow-oom
-- Takes back every link to a job: id
forget_shares(ARGV[2])
return 'ok'
