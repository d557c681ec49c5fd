"""How metrics are told: in Prometheus' text form, with what is known of the process itself, and not a series too many.

A client library adds to every counter and every bucket a series that says when it began. Prometheus 2 makes a metric of
its own of each, which nobody asks for; they are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Exposition:
    """A registry to put metrics in, and its text. Each process, and each app in a test, has its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, processor time, open files: process_*
        self.labels: dict[str, str] = {}
        """What every series is labelled with besides its own labels."""

    def families(self) -> Iterable[Metric]:
        """Every metric with its series, as they are told."""
        for family in self.registry.collect():
            told = (sample for sample in family.samples if not sample.name.endswith("_created"))
            family.samples = [sample._replace(labels={**self.labels, **sample.labels}) for sample in told]
            yield family

    def text(self) -> bytes:
        """What Prometheus reads."""
        told = CollectorRegistry()
        told.register(_Told(self))
        return generate_latest(told)


class _Told(Collector):
    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition

    def describe(self) -> Iterable[Metric]:
        return ()  # so that registering it collects nothing

    def collect(self) -> Iterable[Metric]:
        return self._exposition.families()
