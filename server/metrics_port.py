"""R3_METRICS_PORT: a port for /metrics alone, without a key, for a collector that a network policy lets reach it.

It listens in the API process, so that what it tells is that process's own; nothing else answers there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config, Server

from server.errors import problem_response
from server.exposition import CONTENT_TYPE
from server.faults import ApiError
from server.protocol import AbortableProtocol
from server.queue_errors import QueueUnavailable

if TYPE_CHECKING:
    from server.service import Service


async def measured(parts: Service) -> Response:
    """What this process measures, and the queue's numbers while Redis answers."""
    depth, workers = None, []
    with suppress(QueueUnavailable):
        depth, workers = await parts.queue.depth(), await parts.queue.workers()
    parts.metrics.set_queue(depth, workers)
    headers = {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(parts.metrics.exposition.text(), headers=headers)


@asynccontextmanager
async def metrics_port(parts: Service) -> AsyncIterator[None]:
    """Listen while the block lasts, where a port is named."""
    settings = parts.settings
    if settings.metrics_port is None:
        yield
        return
    config = Config(
        _app(parts),
        host=(settings.metrics_host or settings.host).strip("[]"),
        port=settings.metrics_port,
        http=AbortableProtocol,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=1,
        server_header=False,
        access_log=False,
        log_config=None,
    )
    server = _Beside(config)
    serving = asyncio.create_task(server.serve())
    try:
        yield
    finally:
        server.should_exit = True
        await serving


class _Beside(Server):
    """A server that leaves signals to the one that the process is there for."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _app(parts: Service) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (await _answer(parts, scope))(scope, receive, send)

    return app


async def _answer(parts: Service, scope: Scope) -> Response:
    if scope["path"] != "/metrics":
        return problem_response(ApiError("not_found", "there is nothing here but /metrics"), scope)
    if scope["method"] not in ("GET", "HEAD"):
        allowed = {"Allow": "GET, HEAD"}
        return problem_response(ApiError("method_not_allowed", "use GET", headers=allowed), scope)
    return await measured(parts)
