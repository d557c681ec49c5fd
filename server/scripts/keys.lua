#!lua flags=no-writes,allow-oom
-- Who may come in: changed, the mark of what the caller knows already ('' for nothing).
-- Returns since and changed ('' before the first key), and where `changed` is another also the keys {id, record, …}, the
-- tenants {name, limits, …} and the secret of signed links ('' for none).
local auth = call('HMGET', ROOT .. 'auth', 'since', 'changed')
local since, changed = auth[1] or '', auth[2] or ''
local secret = call('GET', ROOT .. 'token_secret') or ''
if changed == ARGV[2] and changed ~= '' then return {since, changed} end
return {since, changed, call('HGETALL', ROOT .. 'keys'), call('HGETALL', ROOT .. 'tenants'), secret}
