"""A real API in this process: the app under uvicorn on a free loopback port, in a thread with an event loop of its
own.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from uvicorn import Config

from server.app import close_streams, create_app
from server.protocol import AbortableProtocol, ApiServer
from server.settings import Settings
from server.traces import Traces
from tests.server.waiting import until


@dataclass(frozen=True)
class RunningApi:
    """An API that answers at `url`; `client` calls it."""

    url: str
    port: int
    app: FastAPI
    server: ApiServer
    client: httpx.Client
    settings: Settings

    def submit(self, **body: Any) -> dict[str, Any]:
        """A job that was taken, as it was answered."""
        answer = self.client.post("/generate", json={"prompt": "a cat", **body}, headers={"Prefer": "respond-async"})
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def job(self, job_id: str) -> dict[str, Any]:
        """A job as it stands."""
        answer = self.client.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def stop(self) -> None:
        """Have it end, as SIGTERM does."""
        self.server.should_exit = True


@contextmanager
def running_api(redis_url: str, data_dir: Path, **settings: Any) -> Iterator[RunningApi]:
    """Serve for as long as the block lasts; `traces` where there are to be any."""
    traces: Traces | None = settings.pop("traces", None)
    given = Settings(
        redis_url=redis_url,
        data_dir=data_dir,
        **{"checkpoint": data_dir / "no-checkpoint", "heartbeat_s": 1.0, **settings},
    )
    app = create_app(given, traces=traces)
    # With the protocol named, as uvicorn's own sockets have it: asyncio sends at once only for these.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(1024)
    port = int(listening.getsockname()[1])
    config = Config(
        app, http=AbortableProtocol, ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=5
    )
    server = ApiServer(config, lambda: close_streams(app))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), daemon=True)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        assert server.started
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=30) as client:
            yield RunningApi(url, port, app, server, client, given)
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive(), "the API did not end"
