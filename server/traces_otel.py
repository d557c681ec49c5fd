"""Traces through OpenTelemetry's SDK: spans are put into a bounded line, and a thread sends them by OTLP over HTTP.

Whoever ends a span never waits: when the line is full (OTEL_BSP_MAX_QUEUE_SIZE, 2,048) spans are dropped. What a worker
that is killed had under way is lost with it: only what has ended is sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server import __version__
from server.traces import Carrier, StepSpan, Submitting, Traces, Value

if TYPE_CHECKING:
    from server.queue_records import Lease, StoredJob
    from server.worker_metrics import Outcome

# The worker's drain and what it publishes then take up to 115 s of the 120 that it is given, the API 8 of 10.
FLUSH_S: Final = 2.0
LONGEST: Final = 512  # characters of a caller's header that are taken along, as W3C asks for; Redis keeps them
_FAULTS: Final = frozenset({"failed", "cancelled", "lost"})
_W3C: Final = TraceContextTextMapPropagator()


@dataclass
class _Attempt:
    """A lease under way."""

    span: Span
    inside: Context
    outcome: Outcome = "lost"
    code: str | None = None


class OtelTraces(Traces):
    """Traces that are handed to `processor`."""

    def __init__(self, service: str, processor: SpanProcessor) -> None:
        named = Resource.create({SERVICE_VERSION: __version__})
        if str(named.attributes[SERVICE_NAME]).startswith("unknown_service"):  # neither variable names it
            named = named.merge(Resource({SERVICE_NAME: service}))
        self._provider = TracerProvider(resource=named, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("r3", __version__)
        self._lock = threading.Lock()
        self._attempts: dict[tuple[str, int], _Attempt] = {}

    @classmethod
    def exporting(cls, service: str) -> Self:
        """To where OTEL_EXPORTER_OTLP_ENDPOINT says. Raises ValueError, OSError for what the SDK refuses."""
        return cls(service, BatchSpanProcessor(OTLPSpanExporter()))

    # API

    @contextmanager
    def submitting(self, headers: Mapping[str, str], again: Carrier | None = None) -> Iterator[Submitting]:
        told = {
            name: headers[name] for name in _W3C.fields if len(headers.get(name, "")) <= LONGEST and name in headers
        }
        links = [Link(get_current_span(_W3C.extract(again)).get_span_context())] if again else None
        span = self._tracer.start_span("submit", _W3C.extract(told), SpanKind.PRODUCER, links=links)
        under_way = Submitting()
        _W3C.inject(under_way.trace, set_span_in_context(span))
        try:
            yield under_way
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))  # its text may repeat the caller's
            raise
        finally:
            span.set_attributes(_attributes(under_way.about))
            span.end()

    def cancelled_unbegun(self, job: StoredJob) -> None:
        if job.started_ms is None and job.finished_ms is not None:
            self._waited(job, _trace_of(job), job.finished_ms, fault="cancelled")

    # worker

    def begun(self, lease: Lease) -> None:
        job, trace = lease.job, _trace_of(lease.job)
        if not lease.resumed and job.started_ms is not None:
            self._waited(job, trace, job.started_ms)
        about: dict[str, Value] = {
            "job.id": lease.id,
            "model": job.model,
            "attempt": lease.attempt,
            "n": len(job.trajectories),
        }
        span = self._tracer.start_span("attempt", trace, SpanKind.CONSUMER, _attributes(about))
        with self._lock:
            self._attempts[lease.id, lease.token] = _Attempt(span, set_span_in_context(span, Context()))

    def step(self, lease: Lease, step: StepSpan) -> None:
        if (attempt := self._of(lease)) is not None:
            span = self._tracer.start_span(
                step.name, attempt.inside, attributes=_attributes(step.about), start_time=step.began_ns
            )
            _fault(span, step.fault)
            span.end(step.ended_ns)

    @contextmanager
    def beside(self, lease: Lease, name: str, **about: Value) -> Iterator[None]:
        began_ns, fault = time.time_ns(), None
        try:
            yield
        except BaseException as error:
            fault = type(error).__name__
            raise
        finally:
            self.step(lease, StepSpan(name, began_ns, time.time_ns(), about, fault))

    def outcome(self, lease: Lease, outcome: Outcome, code: str | None = None) -> None:
        if (attempt := self._of(lease)) is not None:
            attempt.outcome, attempt.code = outcome, code

    def ended(self, lease: Lease) -> None:
        with self._lock:
            attempt = self._attempts.pop((lease.id, lease.token), None)
        if attempt is not None:
            _end(attempt)

    def close(self) -> None:
        with self._lock:
            left, self._attempts = list(self._attempts.values()), {}
        for attempt in left:
            _end(attempt)
        # The SDK would wait for an exporter that hangs; its thread is a daemon's, which the process does not wait for.
        flush = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        flush.start()
        flush.join(FLUSH_S)

    def _waited(self, job: StoredJob, trace: Context, until_ms: int, fault: str | None = None) -> None:
        """The time in the queue, by Redis's clock."""
        about = _attributes({"job.id": job.id, "model": job.model, "priority": job.priority})
        span = self._tracer.start_span("queue", trace, attributes=about, start_time=job.created_ms * 1_000_000)
        _fault(span, fault)
        span.end(until_ms * 1_000_000)

    def _of(self, lease: Lease) -> _Attempt | None:
        with self._lock:
            return self._attempts.get((lease.id, lease.token))


def _end(attempt: _Attempt) -> None:
    attempt.span.set_attribute("r3.outcome", attempt.outcome)
    _fault(attempt.span, (attempt.code or attempt.outcome) if attempt.outcome in _FAULTS else None)
    attempt.span.end()


def _fault(span: Span, code: str | None) -> None:
    if code is not None:
        span.set_attribute("error.type", code)
        span.set_status(Status(StatusCode.ERROR, code))


def _trace_of(job: StoredJob) -> Context:
    """The trace that a job was submitted in; an empty one, so that a trace of its own begins, where it was in none."""
    return _W3C.extract(job.request.get("trace", {}), Context())


def _attributes(about: Mapping[str, Value]) -> dict[str, Value]:
    return {f"r3.{name}": value for name, value in about.items()}
