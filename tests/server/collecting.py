"""A collector of traces on loopback: a small, real OTLP/HTTP receiver that remembers every span it was sent."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.server.answering import answering


@dataclass(frozen=True)
class Sent:
    """A span as it came over the wire; ids in hexadecimal."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    about: dict[str, Any]
    status: int
    told: str
    took_s: float


@dataclass
class Collector:
    """What was sent, and whether it answers: one that `hangs` takes a request and says nothing until it is let go."""

    port: int = 0
    spans: list[Sent] = field(default_factory=list)
    requests: int = 0
    raw: bytes = b""
    hangs: bool = False
    go: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """What OTEL_EXPORTER_OTLP_ENDPOINT says."""
        return f"http://127.0.0.1:{self.port}"

    def take(self, path: str, kind: str, body: bytes) -> None:
        """One export."""
        self.requests += 1
        assert (path, kind) == ("/v1/traces", "application/x-protobuf")
        if self.hangs:
            self.go.wait(60)
            return
        self.raw += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = _plain(resource.resource.attributes)["service.name"]
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                took_s = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
                ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                about, status = _plain(span.attributes), span.status
                self.spans.append(Sent(service, span.name, *ids, about, status.code, status.message, took_s))

    def named(self, name: str) -> list[Sent]:
        """The spans of that name."""
        return [span for span in self.spans if span.name == name]


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector for as long as the block lasts."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            collector.take(self.path, self.headers["Content-Type"], body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with answering(Handler) as collector.port:
        try:
            yield collector
        finally:
            collector.go.set()
