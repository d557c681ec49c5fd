#!lua flags=allow-oom
-- Gives finished jobs no longer than POLICY has it: id … Those that ended while jobs were kept for longer, or for ever.
for i = 2, #ARGV do
  local id = ARGV[i]
  local finished = tonumber(call('HGET', job_key(id), 'finished') or '')
  if finished and POLICY.job_ttl_ms ~= cjson.null then
    local ttl = POLICY.job_ttl_ms
    if call('ZSCORE', ROOT .. 'dead', id) then ttl = math.max(ttl, POLICY.poisoned_ttl_ms) end
    local left = math.max(1, finished + ttl - NOW)
    local keys = {job_key(id)}
    for _, field in ipairs(call('HKEYS', job_key(id))) do
      if field:sub(1, 2) == 'i:' then keys[#keys + 1] = ROOT .. 'img:' .. field:sub(3) end
    end
    for _, key in ipairs(keys) do
      local now = call('PTTL', key)
      if now == -1 or now > left then call('PEXPIRE', key, whole(left)) end
    end
  end
end
