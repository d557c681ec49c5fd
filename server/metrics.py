"""What the API process measures, in Prometheus' form, in a registry of its own so that two apps in one process do not
mix.

The queue's numbers are asked for when they are scraped; while Redis is away they are left out and `r3_queue_up` is
0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_FIRST_BYTE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The counters and gauges of one API process."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "r3_http_requests", "Requests by route and status code", ["method", "route", "code"], registry=self.registry
        )
        self.first_byte = Histogram(
            "r3_http_time_to_first_byte_seconds",
            "Time from the request's headers to the answer's",
            ["route"],
            buckets=_FIRST_BYTE_BUCKETS,
            registry=self.registry,
        )
        self.streams = Gauge("r3_sse_streams", "Event streams open", registry=self.registry)
        self.streams_closed = Counter(
            "r3_sse_streams_closed", "Event streams that we closed early", ["reason"], registry=self.registry
        )
        self.events_dropped = Counter(
            "r3_sse_events_dropped", "Progress and previews that slow clients lost", registry=self.registry
        )
        self.jobs_submitted = Counter("r3_jobs_submitted", "Jobs accepted by this process", registry=self.registry)
        self.webhooks = Counter(
            "r3_webhooks",
            "Attempts to deliver webhooks (delivered, failed, refused), and webhooks given up (dropped)",
            ["outcome"],
            registry=self.registry,
        )
        self._queue = {
            "waiting": Gauge("r3_queue_waiting", "Jobs waiting", ["model"], registry=self.registry),
            "running": Gauge("r3_queue_running", "Jobs leased by workers", ["model"], registry=self.registry),
            "cost": Gauge(
                "r3_queue_cost", "Cost waiting, in 512 px pictures of 49 steps", ["model"], registry=self.registry
            ),
            "oldest_s": Gauge(
                "r3_queue_oldest_seconds", "Age of the job that waits longest", ["model"], registry=self.registry
            ),
            "paused": Gauge("r3_queue_paused", "Whether an operator paused it", ["model"], registry=self.registry),
        }
        self._reclaimed = Gauge(
            "r3_queue_reclaimed", "Leases taken back from lost workers, ever", registry=self.registry
        )
        self._poisoned = Gauge("r3_queue_poisoned", "Jobs given up as poison, ever", registry=self.registry)
        self._workers = Gauge("r3_workers", "Workers heard from", registry=self.registry)
        self._queue_up = Gauge("r3_queue_up", "Whether Redis answered", registry=self.registry)
        info = Gauge("r3_api_info", "The build", ["version"], registry=self.registry)
        info.labels(version).set(1)

    def set_queue(self, depth: Mapping[str, Any] | None, workers: int = 0) -> None:
        """Take over what the queue says of itself; None: it does not answer."""
        self._queue_up.set(depth is not None)
        for gauge in self._queue.values():
            gauge.clear()
        if depth is None:
            return
        self._workers.set(workers)
        for model, numbers in depth.get("models", {}).items():
            for name, gauge in self._queue.items():
                if name in numbers:
                    gauge.labels(model).set(numbers[name])
        self._reclaimed.set(depth.get("reclaimed", 0))
        self._poisoned.set(depth.get("poisoned", 0))

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
