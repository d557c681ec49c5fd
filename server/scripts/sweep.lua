#!lua flags=allow-oom
-- What `lease` does before it leases, for all models: for when no worker is alive to do it. Returns how many jobs it touched.
local touched, models = end_overdue(), note_visit() and call('HKEYS', ROOT .. 'models') or {}
for _, model in ipairs(models) do touched = touched + reap(model) end
return touched
