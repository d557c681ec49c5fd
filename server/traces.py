"""Traces: one a job, across API, queue and worker. Off, and of no cost, unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

    submit                                      API      under the caller's span where a `traceparent` names one
      queue                                     worker   from submission to the first time that a worker took the job
      attempt                                   worker   one a lease, so that each worker that resumes has its own
        reason, generate, judge, reflect, refine   worker   a step of one trajectory (step_spans.py)
        encode, store                           worker   what is done with a finished picture beside the engine

A job carries its trace through Redis as `trace` in its request, in the words of W3C's Trace Context. No span holds a
text of people's, a key or a picture. traces_otel.py is the one file that imports OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog

from server.misconfigured import shown_url
from server.other_variables import Telemetry

if TYPE_CHECKING:
    from server.queue_records import Lease, StoredJob
    from server.worker_metrics import Outcome

log = structlog.get_logger("r3.traces")

Carrier = dict[str, str]  # `traceparent`, and `tracestate` where there is one
Value = str | int | float | bool


@dataclass
class Submitting:
    """A job on its way into its queue: the `trace` that it takes along, and what is said of it."""

    trace: Carrier = field(default_factory=dict)
    about: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class StepSpan:
    """A step of one trajectory, done or cut short. `fault` is a code where that is an error; `ns` since 1970."""

    name: str
    began_ns: int
    ended_ns: int
    about: Mapping[str, Value]
    fault: str | None = None


class Traces:
    """Tracing that is off. No method waits for anything, and each may be called from any thread."""

    @contextmanager
    def submitting(self, headers: Mapping[str, str], again: Carrier | None = None) -> Iterator[Submitting]:
        """A job is submitted by a request with these headers; `again` is the trace of the job that it repeats."""
        yield Submitting()

    def cancelled_unbegun(self, job: StoredJob) -> None:
        """A job was cancelled; where no worker ever had it, nobody else tells."""

    def begun(self, lease: Lease) -> None:
        """A job was leased."""

    def step(self, lease: Lease, step: StepSpan) -> None:
        """A step of it is over."""

    @contextmanager
    def beside(self, lease: Lease, name: str, **about: Value) -> Iterator[None]:
        """What the block does is done for the job beside the engine."""
        yield

    def outcome(self, lease: Lease, outcome: Outcome, code: str | None = None) -> None:
        """How the attempt ends; without a word it was lost."""

    def ended(self, lease: Lease) -> None:
        """Nothing more is written under the lease; may be said again."""

    def close(self) -> None:
        """Send what is left, within FLUSH_S (traces_otel.py), and nothing after that."""


OFF: Final = Traces()


def open_traces(service: str) -> Traces:
    """Traces as the environment asks for them, of a process that is called `service` unless it says otherwise.

    What is wrong with them is logged, and they are off: no job waits for its trace.
    """
    asked = Telemetry()
    if asked.endpoint is None or asked.is_off:
        return OFF
    if asked.fault is not None:
        log.warning("traces are off", reason=asked.fault)
        return OFF
    try:
        from server.traces_otel import OtelTraces

        traces = OtelTraces.exporting(service)
    except ImportError as error:
        log.warning(
            "traces are off: OTEL_EXPORTER_OTLP_ENDPOINT is set, and OpenTelemetry is not installed; "
            "install r3-server[otel], or leave the variable out",
            reason=str(error),
        )
        return OFF
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        log.warning("traces are off: an OTEL_ variable is refused", reason=shown_url(str(error)))
        return OFF
    log.info("traces are sent", endpoint=asked.shown_endpoint, service=service)
    return traces


def trace_id_of(request: Mapping[str, Any]) -> dict[str, str]:
    """The id of a stored job's trace, for its log lines; nothing where it has none."""
    parent = request.get("trace", {}).get("traceparent")
    return {} if parent is None else {"trace_id": parent.split("-")[1]}
