#!lua flags=allow-oom
-- Counts a request: bucket per_min. Returns 1 or 0 (too many), how many are left, and seconds until there is another.
-- A repeated call counts twice, which costs its caller one request at most.
return {take_token(ARGV[2], tonumber(ARGV[3]))}
