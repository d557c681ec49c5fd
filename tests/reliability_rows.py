"""The rows of docs/reliability.md: what is promised of each fault and load, in one sentence a row."""

from __future__ import annotations

from typing import Final

PROMISES: Final[dict[str, str]] = {
    "R1": "A worker is killed outright, fifty times at random: no job is lost, every job's events are whole and"
    " in order, at most one round is computed again for a job and a death, and it goes on within the "
    "lease and a second",
    "R2": "Redis is killed outright four times during 400 jobs: none that was acknowledged is lost; meanwhile "
    "the API answers 503 with Retry-After within 2 s, and is well within 3 s of Redis's return; nothing "
    "is started again",
    "R3": "A worker under load is asked to end: it takes nothing new, finishes its rounds where the drain limit"
    " lets it, gives the rest back and ends with 0; others go on with them within 2 s; no job fails",
    "R4": "A worker sleeps for three leases and wakes up: what it then writes is refused",
    "R5": "A hundred submissions at once with one Idempotency-Key, and submissions while Redis hangs: one job each",
    "R6": "A job that kills its worker is given up after three attempts; the jobs beside it succeed",
    "R7": "Redis is at its memory limit: nothing new is taken; what runs finishes and can be read",
    "R8": "Redis is away for 60 s, at the start or later: the processes stay, alive and not ready",
    "R9": "A step of one job raises or runs out of memory: that job fails with its reason; the jobs in its "
    "batch succeed with the same pictures, but for rounding",
    "S1": "1,000 streams of one API process, one event a second each: none lost, 99 % within 100 ms, at most 60"
    " KB a stream and a quarter of a core",
    "S2": "200 clients that never read beside 50 that do: at most 100 MB more; the readers' p99 at most 20 % "
    "longer; who does not read is cut off within 30 s, and can resume",
    "S3": "A stream cut at 100 random bytes and resumed by Last-Event-ID: together the whole log, without gap "
    "or repeat",
    "S4": "20 s of silence behind nginx: the stream is not cut",
    "S5": "`openai` for Python and Node, `curl -N` and a browser's EventSource all stream; EventSource resumes",
    "S6": "Cancel and stop of a queued, running or finished job: within a denoising step or 500 ms; its place "
    "is free; asking twice does no harm",
    "F1": "2,000 generated requests and more: no 5xx, no status or body that openapi.yaml does not know",
    "F2": "Rubbish for JSON, for text and for headers: refused within 50 ms with a 4xx, and no traceback",
    "F3": "Pictures made to harm: refused from their header, or made harmless, in at most 64 MB more memory",
    "T1": "Another tenant's jobs, pictures and events are unknown: 404; keys are kept hashed",
    "T2": "Over a key's rate or a tenant's quota: 429 with Retry-After and RateLimit headers; the others wait "
    "at most 10 % longer",
    "T3": "A tenant floods 1,000 jobs, another sends one: it starts within the running batch and two leases",
    "W1": "Webhooks to private addresses, by whatever name or redirect, are refused",
    "W2": "A webhook's receiver is down three times: delivered at least once, always with one id, never again "
    "after a 2xx",
    "L1": "Prompts that look like log lines, planted secrets: one JSON line an event, and no secret, key or "
    "prompt in it",
    "L2": "Administrative acts leave one audit line each: who, what, when, from where",
    "H1": "Every answer carries the safe headers; other origins are refused unless named",
    "C1": "Pickled, truncated, mis-shaped or incomplete checkpoints are refused, with the names; safetensors only",
    "P1": "30 minutes, 10,000 jobs: memory grows by less than 1 MB in 10 minutes; Redis holds no more keys than"
    " before once lifetimes are over",
}
