#!lua flags=allow-oom
-- What `lease` does before it leases, for all models: for when no worker is alive to do it. Returns how many jobs it touched.
local touched = end_overdue()
for _, model in ipairs(call('HKEYS', ROOT .. 'models')) do touched = touched + reap(model) end
return touched
