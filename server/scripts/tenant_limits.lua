#!lua flags=allow-oom
-- Keeps what a tenant may have: tenant limits running. `limits` is '' to forget them, `running` '' for no bound; its jobs
-- that wait already obey the new one.
local tenant, load = ARGV[2], ROOT .. 'load'
if ARGV[3] == '' then call('HDEL', ROOT .. 'tenants', tenant) else call('HSET', ROOT .. 'tenants', tenant, ARGV[3]) end
call('HSET', ROOT .. 'auth', 'changed', whole(NOW_US))
if call('HEXISTS', load, 'active:' .. tenant) == 1 then bound_running(tenant, ARGV[4]) end
return 'ok'
