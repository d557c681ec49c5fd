#!lua
-- Makes a read-only link to a job: id tenant digest ttl_ms. No allow-oom: at the memory limit nothing new is taken.
-- Returns when it expires (ms since 1970), no later than the job, or 'not_found'.
local id, tenant, digest, ttl = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local job = read(id)
if not job or job.tenant ~= tenant then return 'not_found' end
local left = call('PTTL', job_key(id)) -- negative while it is not finished, or kept for ever
if left >= 0 then ttl = math.max(1, math.min(ttl, left)) end
local record = '{"tenant":' .. cjson.encode(tenant) .. ',"job":' .. cjson.encode(id)
  .. ',"expires":' .. whole(NOW + ttl) .. '}'
call('SET', ROOT .. 'share:' .. digest, record, 'PX', whole(ttl))
local digests = ROOT .. 'shares:' .. id
call('SADD', digests, digest)
if call('PTTL', digests) < ttl then call('PEXPIRE', digests, whole(ttl)) end
return whole(NOW + ttl)
