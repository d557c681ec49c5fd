"""What the API process measures. docs/metrics.md lists it, and is made from here.

The queue's numbers are asked for when they are scraped; while Redis is away they are left out and `r3_queue_up` is 0.
They are the same whichever API process tells them: add them up over processes and they are wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from prometheus_client import Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from server.exposition import Exposition

_FIRST_BYTE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_OF_A_MODEL: Final = {
    "waiting": ("r3_queue_waiting", "Jobs waiting"),
    "running": ("r3_queue_running", "Jobs leased by workers"),
    "cost": ("r3_queue_cost", "Cost waiting, in pictures of 512 x 512 pixels and 49 steps"),
    "seconds_left": ("r3_queue_work_seconds", "How long what waits will take at the pace of late, where it is known"),
    "oldest_s": ("r3_queue_oldest_seconds", "Age of the job that waits longest"),
    "paused": ("r3_queue_paused", "Whether an operator paused it"),
}
_EVER: Final = {
    "reclaimed": ("r3_queue_reclaimed", "Leases taken back from lost workers, or given back by broken ones"),
    "poisoned": ("r3_queue_poisoned", "Jobs given up as poison"),
}


class Metrics:
    """The counters and gauges of one API process."""

    def __init__(self, version: str) -> None:
        self.exposition = Exposition()
        registry = self.exposition.registry
        self.requests = Counter(
            "r3_http_requests", "Requests by route and status code", ["method", "route", "code"], registry=registry
        )
        self.first_byte = Histogram(
            "r3_http_time_to_first_byte_seconds",
            "From a request's headers to its answer's",
            ["route"],
            buckets=_FIRST_BYTE_BUCKETS,
            registry=registry,
        )
        self.streams = Gauge("r3_sse_streams", "Event streams open", registry=registry)
        self.streams_closed = Counter(
            "r3_sse_streams_closed", "Event streams that we closed early", ["reason"], registry=registry
        )
        self.events_dropped = Counter(
            "r3_sse_events_dropped", "Progress and previews that slow clients lost", registry=registry
        )
        self.jobs_submitted = Counter("r3_jobs_submitted", "Jobs accepted by this process", registry=registry)
        self.webhooks = Counter(
            "r3_webhooks",
            "Attempts to deliver webhooks (delivered, failed, refused), and webhooks given up (dropped)",
            ["outcome"],
            registry=registry,
        )
        info = Gauge("r3_api_info", "The build; always 1", ["version"], registry=registry)
        info.labels(version).set(1)
        self._queue = _QueueNumbers()
        registry.register(self._queue)

    def set_queue(self, depth: Mapping[str, Any] | None, workers: Sequence[Mapping[str, Any]] = ()) -> None:
        """Take over what the queue says of itself and of the workers heard from; None: it does not answer."""
        self._queue.depth, self._queue.workers = depth, workers


class _QueueNumbers(Collector):
    """What Redis said last, and nothing where it said nothing: a count of 0 would be a reset to who adds it up."""

    depth: Mapping[str, Any] | None = None
    workers: Sequence[Mapping[str, Any]] = ()

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        depth = self.depth
        yield GaugeMetricFamily("r3_queue_up", "Whether Redis answered", value=depth is not None)
        models: Mapping[str, Mapping[str, float]] = {} if depth is None else depth.get("models", {})
        for number, (name, told) in _OF_A_MODEL.items():
            family = GaugeMetricFamily(name, told, labels=["model"])
            for model, numbers in models.items():
                if number in numbers:
                    family.add_metric([model], numbers[number])
            yield family
        for number, (name, told) in _EVER.items():
            yield CounterMetricFamily(name, told, value=None if depth is None else depth.get(number, 0))
        yield self._workers(models)

    def _workers(self, models: Iterable[str]) -> Metric:
        family = GaugeMetricFamily("r3_workers", "Workers heard from of late", labels=["model"])
        serve = [str(worker.get("model")) for worker in self.workers]
        for model in sorted({*models, *serve}):
            family.add_metric([model], serve.count(model))
        return family
