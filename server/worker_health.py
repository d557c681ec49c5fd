"""The worker's own port: /livez, /readyz, /startupz and /metrics, from a thread of its own."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

from server.exposition import CONTENT_TYPE
from server.traces import OFF, Traces
from server.worker_metrics import WorkerMetrics

HUNG_AFTER_S: Final = 60.0  # a turn of the engine, which takes a few seconds at the most
HUNG_AFTER_S_ON_A_CPU: Final = 3600.0  # where one of a large model may take half an hour
REDIS_KNOWN_FOR_S: Final = 10.0


@dataclass
class Vitals:
    """How the worker is; written by its threads, read by probes. Clocks are monotonic."""

    metrics: WorkerMetrics = field(default_factory=WorkerMetrics)
    traces: Traces = OFF
    loaded_bytes: int = 0
    total_bytes: int = 0
    is_loaded: bool = False
    is_draining: bool = False
    hung_after_s: float = HUNG_AFTER_S
    broken: str | None = None
    """Why the worker cannot go on and is about to end, None while it can."""
    beat_at_s: float = field(default_factory=time.monotonic)
    redis_at_s: float = float("-inf")

    def load_progress(self, done: int, total: int) -> None:
        """Bytes of weights, as the loader tells them."""
        self.loaded_bytes, self.total_bytes = done, total
        self.beat()

    def beat(self) -> None:
        """The engine's loop is alive."""
        self.beat_at_s = time.monotonic()

    def redis_answered(self, answered: bool) -> None:
        """Whether Redis answered just now."""
        self.metrics.redis_up.set(answered)
        self.redis_at_s = time.monotonic() if answered else float("-inf")

    def livez(self) -> tuple[bool, dict[str, Any]]:
        """Alive: loading, or the engine's loop has turned not long ago. Redis does not matter."""
        if self.broken is not None:
            return False, {"reason": self.broken}
        age_s = time.monotonic() - self.beat_at_s
        return not self.is_loaded or age_s < self.hung_after_s, {"engine_heartbeat_age_s": round(age_s, 1)}

    def readyz(self) -> tuple[bool, dict[str, Any]]:
        """Ready: loaded, not on its way out, and Redis was heard from of late."""
        reason = (
            self.broken
            if self.broken is not None
            else "the model is loading"
            if not self.is_loaded
            else "the worker is draining"
            if self.is_draining
            else "Redis does not answer"
            if time.monotonic() - self.redis_at_s > REDIS_KNOWN_FOR_S
            else None
        )
        return reason is None, {} if reason is None else {"reason": reason}

    def startupz(self) -> tuple[bool, dict[str, Any]]:
        """Started: the weights are loaded."""
        return self.is_loaded, {"loaded_bytes": self.loaded_bytes, "total_bytes": self.total_bytes}


class HealthPort:
    """Listens while the `with` block lasts. Raises OSError where the address is taken."""

    def __init__(self, host: str, port: int, vitals: Vitals) -> None:
        self._server = _Server((host.strip("[]"), port), _handler(vitals))
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on, where 0 was asked for."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked may have waited long enough, which is no fault of ours to tell of."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def _handler(vitals: Vitals) -> type[BaseHTTPRequestHandler]:
    probes: dict[str, Callable[[], tuple[bool, dict[str, Any]]]] = {
        "/livez": vitals.livez,
        "/healthz": vitals.livez,
        "/readyz": vitals.readyz,
        "/startupz": vitals.startupz,
    }

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(HTTPStatus.OK, CONTENT_TYPE, vitals.metrics.exposition.text())
            elif (probe := probes.get(path)) is not None:
                good, body = probe()
                status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
                text = json.dumps({"status": "ok" if good else "unavailable", **body})
                self._answer(status, "application/json", text.encode())
            else:
                self._answer(HTTPStatus.NOT_FOUND, "application/json", b'{"status": "not found"}')

        def do_HEAD(self) -> None:
            self.do_GET()  # _answer leaves the body out

        def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
            """What http.server would say in HTML; a method that we lack is a wrong one."""
            status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
            self.close_connection = True
            said = {"status": status.phrase.lower(), "detail": explain or message or status.description}
            self._answer(status, "application/json", json.dumps(said).encode())

        def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if status == HTTPStatus.METHOD_NOT_ALLOWED:
                self.send_header("Allow", "GET, HEAD")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that it is called with
            """Probes are no news."""

    return Handler
