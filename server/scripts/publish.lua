#!lua flags=allow-oom
-- Appends a worker's events between checkpoints: id token call name data name data …
-- Returns 'ok' or 'lost'.
local refusal = fenced(ARGV[2], ARGV[3], ARGV[4])
if refusal then return refusal end
remember_call(ARGV[2], ARGV[4])
for i = 5, #ARGV, 2 do append(ARGV[2], ARGV[i], ARGV[i + 1]) end
return 'ok'
