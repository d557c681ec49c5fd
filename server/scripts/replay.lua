#!lua flags=no-writes
-- What an Idempotency-Key made before, for whom that spares the work of a submission: tenant key body_hash
-- Returns {'replayed', id}, {'mismatch'}, or {} where there is nothing any more. `enqueue` is who decides.
return made_before(ARGV[2], ARGV[3], ARGV[4]) or {}
