"""The API process: routes, and around them who is let in, what is counted, and how errors look.

Observe      an id, a log line, a count and the common headers for every request; the last resort for exceptions
Guard        refuses foreign hosts and origins, and too many headers
CORS         only where the operator names origins
Auth         who asks: a key, a link, or everyone where none is asked for; counts requests against their limit
BodyLimit    counts the body while it is read
routes       generate, jobs, share, images, openai, admin, service, session, docs, page
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Final

import structlog
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

import server
from server import contract, errors
from server.auth import Auth
from server.authority import Authority
from server.catalogue import Catalogue
from server.giving_up import GivingUp
from server.guard import BodyLimit, Guard
from server.hub import Hub
from server.images import ImageStore
from server.metrics import Metrics
from server.metrics_port import metrics_port
from server.observe import Observe
from server.openai_errors import READ_BY_OPENAI, SENT_BY_OPENAI
from server.present import Presenter
from server.queue import Queue
from server.retention import Retention
from server.routes import admin, docs, generate, images, jobs, openai, page, session, share
from server.routes import service as service_routes
from server.service import Service
from server.settings import Settings
from server.traces import Traces, open_traces

log = structlog.get_logger("r3.api")

_REST_S: Final = 1.0
_THREADS: Final = 64
_EXPOSED_HEADERS: Final = (
    *("Location", "X-Request-ID", "Retry-After", "Preference-Applied", "Idempotent-Replayed"),
    *("RateLimit", "RateLimit-Policy", "WWW-Authenticate", *READ_BY_OPENAI),
)
_TAKEN_HEADERS: Final = (
    *("Authorization", "Content-Type", "Idempotency-Key", "Prefer", "Last-Event-ID", "X-Request-ID"),
    *("traceparent", "tracestate", *SENT_BY_OPENAI),
)


def create_app(settings: Settings, queue: Queue | None = None, traces: Traces | None = None) -> FastAPI:
    """The app. Nothing is connected to or written until it starts; without `queue` it opens the one that the settings
    name, without `traces` those that the environment asks for.
    """
    metrics = Metrics(server.__version__)
    authority = Authority(settings)
    app = FastAPI(
        title="R3",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=_lifespan(settings, metrics, authority, (queue, traces)),
    )
    routers = (
        *(generate.router, jobs.router, share.router, images.router, openai.router),
        *(admin.router, service_routes.router, session.router, docs.router, page.router),
    )
    errors.install(app, [route for router in routers for route in router.routes])
    contract.install(app)
    for router in routers:
        app.include_router(router)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(Auth, authority=authority)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=_TAKEN_HEADERS,
            expose_headers=_EXPOSED_HEADERS,
        )
    app.add_middleware(Guard, settings=settings, asks_for_keys=lambda: authority.asks_for_keys)
    app.add_middleware(Observe, metrics=metrics)
    return app


def close_streams(app: FastAPI) -> None:
    """Tell every stream and every waiting request that the process is about to end."""
    parts: Service | None = getattr(app.state, "service", None)
    if parts is not None:
        parts.hub.close("shutdown")


async def _kept_running(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Work that never ends by itself: where a fault of ours ends it, that is seen, and it begins again."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("background work failed; it is begun again", work=name)
        await asyncio.sleep(_REST_S)


def _lifespan(
    settings: Settings, metrics: Metrics, authority: Authority, given: tuple[Queue | None, Traces | None]
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        queue, traces = given
        own = queue or Queue.from_settings(settings)
        traces = traces or open_traces("r3-api")
        # Reads of pictures wait for a store that may be slow, and must not keep the threads from all others.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="api"))
        images = await asyncio.to_thread(ImageStore.from_settings, settings)
        hub = Hub(own, metrics, buffer_events=settings.stream_buffer_events, heartbeat_s=settings.heartbeat_s)
        authority.connect(own)
        presenter = Presenter(own, images, authority)
        catalogue = Catalogue(own, settings)
        parts = app.state.service = Service(
            settings, own, images, hub, metrics, catalogue, presenter, authority, GivingUp(own, traces), traces
        )
        background: dict[str, Callable[[], Awaitable[None]]] = {
            "keys": authority.keep_fresh,
            "streams of those who may no longer": partial(hub.close_refused, authority.no_longer_good),
            "live feed": hub.run,
            "ticks": hub.tick_for_ever,
            "retention": Retention(own, images, settings).run,
        }
        if settings.webhook_allow:
            from server.hook_delivery import Deliveries

            background["webhooks"] = Deliveries.from_settings(settings, own, presenter, metrics).run
        tasks = [asyncio.create_task(_kept_running(name, work)) for name, work in background.items()]
        log.info("api started", host=settings.host, port=settings.port)
        try:
            async with metrics_port(parts):
                yield
        finally:
            hub.close("shutdown")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await parts.giving_up.close()
            await authority.close()
            await parts.readiness.close()
            images.close()
            if queue is None:
                with suppress(OSError):
                    await own.close()
            await asyncio.to_thread(traces.close)

    return lifespan
