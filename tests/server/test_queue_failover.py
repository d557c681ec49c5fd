"""A planned fail-over: the old primary lives on as a replica and keeps its clients, and the address leads elsewhere."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Final

import pytest
import redis

from server.embedded import EmbeddedServer, find_binary, locked
from server.queue import Queue, QueueUnavailable
from server.queue_worker import Control, WorkerQueue
from tests.server.conftest import POLICY, oldest_redis
from tests.server.jobs import MODEL, job
from tests.server.waiting import until

NOBODY: Final = ("127.0.0.1", 9)  # of whom the old primary is a replica: it need not find anybody to refuse writes


class Address:
    """One address, and the server that it leads to; new connections alone follow it."""

    def __init__(self, link: Path, primary: EmbeddedServer, other: EmbeddedServer) -> None:
        self._link, self._primary, self._other = link, primary, other
        self._lead_to(primary)

    @property
    def url(self) -> str:
        """As the settings name it."""
        return f"unix://{self._link}"

    def fail_over(self) -> None:
        """Make the primary a replica, and lead to the other."""
        with redis.Redis.from_url(self._primary.url) as old:
            old.replicaof(*NOBODY)
        self._lead_to(self._other)

    def _lead_to(self, server: EmbeddedServer) -> None:
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(server.url.removeprefix("unix://").partition("?")[0])


@pytest.fixture(params=["valkey", "redis"])
def address(request: pytest.FixtureRequest) -> Iterator[Address]:
    binary = oldest_redis() if request.param == "redis" else find_binary()
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="r3-"))) for _ in range(2)]
        servers = [
            stack.enter_context(EmbeddedServer(stack.enter_context(locked(folder)), binary)) for folder in folders
        ]
        yield Address(folders[0] / "s", *servers)


async def test_an_api_writes_to_the_new_primary_at_once(address: Address) -> None:
    queue = Queue(address.url, POLICY)
    try:
        await asyncio.gather(*(queue.submit(job()) for _ in range(4)))  # connections stand open
        address.fail_over()
        accepted = await asyncio.gather(*(queue.submit(job()) for _ in range(4)))
        assert all(await asyncio.gather(*(queue.job(one.id) for one in accepted)))
    finally:
        await queue.close()


async def test_an_api_hears_what_the_new_primary_tells(address: Address) -> None:
    queue = Queue(address.url, POLICY)
    feed = queue.follow()
    try:
        assert (await anext(feed)).resync
        await queue.ping()  # a connection stands open
        address.fail_over()
        await queue.submit(job())  # finds it out, as the sweep of every second does
        assert (await asyncio.wait_for(anext(feed), 10)).resync
        accepted = await queue.submit(job())
        assert await queue.cancel(accepted.id) == "accepted"
        assert (await asyncio.wait_for(anext(feed), 10)).job_id == accepted.id
    finally:
        await feed.aclose()
        await queue.close()


def test_a_worker_writes_and_hears_at_the_new_primary(address: Address) -> None:
    worker = WorkerQueue(address.url, "w1", POLICY)
    heard: list[Control] = []

    def listen() -> None:
        heard.extend(worker.control())  # one by one, as they come

    listening = Thread(target=listen)
    try:
        worker.heartbeat({"model": MODEL})
        listening.start()
        until(lambda: len(heard) == 1)
        address.fail_over()
        with pytest.raises(QueueUnavailable):
            worker.heartbeat({"model": MODEL})
        worker.heartbeat({"model": MODEL})  # the next one, seconds later
        until(lambda: len(heard) == 2)
        assert worker.publish("job_x", 1, []) == "lost"  # written where nobody has that job
    finally:
        worker.close()
        listening.join(10)
