"""The first dashboard: is it up, is it keeping up."""

from __future__ import annotations

from typing import Final

from k8s.monitoring.grafana import Dashboard, Panel, Query, Row
from k8s.monitoring.queries import HERE, MODEL, NAMESPACE, OF, RATE, median_and_p95, quantile, rate, within

_FIVES: Final = f'{HERE}, code=~"5.."'
_FAILED: Final = f'{OF}, outcome="failed"'
_JUDGED: Final = f'{OF}, outcome=~"succeeded|failed"'

UP: Final = Row(
    "Is it up?",
    (
        Panel(
            "API processes",
            "Those that tell their metrics.",
            "none",
            (Query(f"count(r3_api_info{{{HERE}}})"),),
            "stat",
            4,
            bad_below=1,
        ),
        Panel(
            "Workers",
            "Those that Redis has heard from in the last 15 s.",
            "none",
            (Query(f"sum(max by (model) (r3_workers{{{OF}}}))"),),
            "stat",
            4,
            bad_below=1,
        ),
        Panel(
            "Processes that reach Redis",
            "All should. Alert: R3QueueAway.",
            "percentunit",
            (Query(f"avg(r3_queue_up{{{HERE}}})"),),
            "stat",
            4,
            bad_below=1,
        ),
        Panel(
            "Requests answered 5xx",
            "Over the time shown. Alert: R3ApiErrors.",
            "percentunit",
            (
                Query(
                    f"{within('r3_http_requests_total', _FIVES)}"
                    f" / {within('r3_http_requests_total', HERE)} or vector(0)"
                ),
            ),
            "stat",
            4,
            bad_from=0.02,
        ),
        Panel(
            "Jobs that failed",
            "Of those that succeeded or failed, over the time shown. Alert: R3JobsFail.",
            "percentunit",
            (Query(f"{within('r3_jobs_total', _FAILED)} / {within('r3_jobs_total', _JUDGED)}"),),
            "stat",
            4,
            bad_from=0.05,
        ),
        Panel(
            "Queues that are paused",
            "By an operator; `r3 queue resume` has them go on.",
            "none",
            (Query(f"sum(max by (model) (r3_queue_paused{{{OF}}}))"),),
            "stat",
            4,
            bad_from=1,
        ),
    ),
)
KEEPING_UP: Final = Row(
    "Is it keeping up?",
    (
        Panel(
            "Jobs waiting and running",
            "Waiting that only grows means too few workers.",
            "none",
            (
                Query(f"max by (model) (r3_queue_waiting{{{OF}}})", "{{model}} waiting"),
                Query(f"max by (model) (r3_queue_running{{{OF}}})", "{{model}} running"),
            ),
        ),
        Panel(
            "Oldest job, and work that waits",
            "The age of the job that waits longest, and how long all that waits will take at the pace of late. "
            "Alert: R3QueueTooOld.",
            "s",
            (
                Query(f"max by (model) (r3_queue_oldest_seconds{{{OF}}})", "{{model}} oldest"),
                Query(f"max by (model) (r3_queue_work_seconds{{{OF}}})", "{{model}} work"),
            ),
        ),
        Panel(
            "Wait in the queue",
            "From submission to the first time that a worker took the job.",
            "s",
            median_and_p95(("r3_request_queue_time_seconds", "wait")),
        ),
        Panel(
            "Jobs taken and ended",
            "Per second. Given back and lost jobs go on with another worker.",
            "reqps",
            (
                Query(f"sum(rate(r3_jobs_submitted_total{{{HERE}}}{RATE}))", "submitted, all models"),
                Query(rate("r3_jobs_total", "outcome"), "{{outcome}}"),
            ),
        ),
        Panel(
            "Places in the engines",
            "Room while jobs wait: tenants are at their bounds, the first wants more, or no worker here can read it.",
            "none",
            (
                Query(f"sum by (model) (r3_trajectories_running{{{OF}}})", "{{model}} running"),
                Query(f"sum by (model) (r3_trajectories_room{{{OF}}})", "{{model}} room"),
            ),
            stacked="normal",
        ),
        Panel(
            "How busy the engines are",
            "The share of time in which an engine has something to compute: the mean over a model's workers.",
            "percentunit",
            (Query(f"avg by (model) (rate(r3_engine_step_seconds_sum{{{OF}}}{RATE}))", "{{model}}"),),
        ),
    ),
)
API: Final = Row(
    "The API",
    (
        Panel(
            "Requests",
            "By status.",
            "reqps",
            (Query(rate("r3_http_requests_total", "code", HERE), "{{code}}"),),
            stacked="normal",
        ),
        Panel(
            "Time to the first byte, 95 %",
            "A POST to /generate that waits is answered when its job ends; the other routes should be fast.",
            "s",
            (Query(quantile(0.95, "r3_http_time_to_first_byte_seconds", "route", HERE), "{{route}}"),),
        ),
        Panel(
            "Event streams open",
            "Streams stay where they began.",
            "none",
            (Query(f"r3_sse_streams{{{HERE}}}", "{{instance}}"),),
        ),
        Panel(
            "Streams cut short, events dropped",
            "Slow clients lose progress and previews first, then the stream, which they can resume; workers that "
            "cannot keep up with their engine leave out the same.",
            "cps",
            (
                Query(rate("r3_sse_streams_closed_total", "reason", HERE), "stream: {{reason}}"),
                Query(rate("r3_sse_events_dropped_total", "", HERE), "events dropped by the API"),
                Query(rate("r3_live_events_dropped_total"), "events left out by workers"),
            ),
        ),
        Panel(
            "Files open",
            "Of those that a process may have; each stream is one. Alert: R3OpenFilesRunOut.",
            "percentunit",
            (
                Query(
                    f"process_open_fds{{{HERE}}} / process_max_fds{{{HERE}}}"
                    f" and on (job, instance) r3_api_info{{{HERE}}}",
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Webhooks",
            "Attempts by outcome; dropped were given up after a day.",
            "cps",
            (Query(rate("r3_webhooks_total", "outcome", HERE), "{{outcome}}"),),
        ),
    ),
)
WRONG: Final = Row(
    "What goes wrong",
    (
        Panel(
            "Leases taken back, jobs given up",
            "In five minutes. Alerts: R3WorkersDie, R3PoisonJob.",
            "none",
            (
                Query(f"max(increase(r3_queue_reclaimed_total{{{HERE}}}[5m]))", "leases taken back"),
                Query(f"max(increase(r3_queue_poisoned_total{{{HERE}}}[5m]))", "given up as poison"),
            ),
        ),
        Panel("Failures", "By error code.", "cps", (Query(rate("r3_failures_total", "code"), "{{code}}"),)),
        Panel(
            "Memory of the API's processes",
            "Resident; that of a stream is some 40 KB.",
            "bytes",
            (
                Query(
                    f"process_resident_memory_bytes{{{HERE}}} and on (job, instance) r3_api_info{{{HERE}}}",
                    "{{instance}}",
                ),
            ),
        ),
    ),
)
FLEET: Final = Dashboard(
    "r3-fleet",
    "R3 fleet",
    "Is it up? Is it keeping up?",
    (NAMESPACE, MODEL),
    (UP, KEEPING_UP, API, WRONG),
    links_to=(("R3 model and loop", "r3-loop"),),
)
