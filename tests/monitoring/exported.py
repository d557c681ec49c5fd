"""The metrics that API and worker export, read off their registries: what docs, dashboards and alerts are held against.

That the processes tell just these is a test of its own (test_metrics_page.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from server.exposition import Exposition
from server.metrics import Metrics
from server.worker_metrics import WorkerMetrics

TARGET_LABELS: Final = frozenset({"job", "instance", "namespace", "pod"})  # what Prometheus adds where it scrapes
_SUFFIXES: Final = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


@dataclass(frozen=True)
class Exported:
    """One metric of one kind of process; `name` as queries write it, but for the three series of a histogram."""

    process: str
    name: str
    type: str
    labels: tuple[str, ...]
    means: str

    @property
    def series(self) -> tuple[str, ...]:
        """The names that queries use."""
        return (
            tuple(f"{self.name}{suffix}" for suffix in _SUFFIXES[self.type])
            if self.type == "histogram"
            else (self.name,)
        )


def exported() -> list[Exported]:
    """Everything, the API's first."""
    api, worker = Metrics("1.0"), WorkerMetrics()
    numbers = {"waiting": 1, "running": 1, "cost": 1.0, "oldest_s": 1.0, "paused": 0, "seconds_left": 1.0}
    api.set_queue({"models": {"tiny": numbers}, "reclaimed": 1, "poisoned": 1}, [{"model": "tiny"}])
    worker.loaded("tiny", "0" * 16, "1.0", 1.0)
    return [*_of("API", api.exposition), *_of("worker", worker.exposition)]


def labels_by_series() -> dict[str, set[str]]:
    """The labels that a query may name, by the name of the series."""
    found: dict[str, set[str]] = {}
    for one in exported():
        for name in one.series:
            le = {"le"} if name.endswith("_bucket") else set()
            found.setdefault(name, set()).update(one.labels, le, TARGET_LABELS)
    return found


def _of(process: str, exposition: Exposition) -> Iterator[Exported]:
    declared = _declared(exposition.registry)
    for family in exposition.families():
        if not family.name.startswith("r3_"):
            continue  # the client library's own, the same for every process of the world
        shown = {name for sample in family.samples for name in sample.labels} - {"le"}
        labels = (*sorted(shown | set(exposition.labels) | set(declared.get(family.name, ()))),)
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield Exported(process, name, family.type, labels, family.documentation)


def _declared(registry: CollectorRegistry) -> dict[str, tuple[str, ...]]:
    """The labels of metrics that have no series yet."""
    collectors = set(registry._names_to_collectors.values())
    return {one._name: tuple(one._labelnames) for one in collectors if isinstance(one, MetricWrapperBase)}
