"""The API's calls to Redis: a task that is cancelled ends, whatever the client library makes of it, and a Redis that is
slow is not taken for one that is away.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from server.app import create_app
from server.queue import Queue, QueueUnavailable
from server.queue_scripts import translated
from server.service import Service
from server.settings import Settings


class Slow:
    """Between the queue and Redis: each answer comes `delay_s` later."""

    delay_s = 0.0

    def __init__(self, behind: str) -> None:
        self._behind = behind.removeprefix("unix://").partition("?")[0]
        self._serving: list[asyncio.Task[None]] = []

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """There is another connection."""
        self._serving.append(asyncio.create_task(self._serve(reader, writer)))

    async def end(self) -> None:
        """Wait until every connection is closed."""
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, questions = await asyncio.open_unix_connection(self._behind)
        with suppress(OSError):
            await asyncio.gather(self._passed(reader, questions, 0), self._passed(answers, writer, None))
        for one in (writer, questions):
            one.close()

    async def _passed(self, given: asyncio.StreamReader, to: asyncio.StreamWriter, delay_s: float | None) -> None:
        while content := await given.read(65536):
            await asyncio.sleep(self.delay_s if delay_s is None else delay_s)
            to.write(content)
        to.close()


@asynccontextmanager
async def slowed(url: str, folder: Path) -> AsyncIterator[tuple[Slow, Queue]]:
    """A queue whose Redis can be slow."""
    slow = Slow(url)
    server = await asyncio.start_unix_server(slow.connected, folder / "s")
    queue = Queue(f"unix://{folder / 's'}")
    try:
        yield slow, queue
    finally:
        await queue.close()
        await slow.end()
        server.close()


async def test_a_redis_that_takes_a_second_is_slow_and_not_away(queue_server: Any, tmp_path: Path) -> None:
    async with slowed(queue_server.url, tmp_path) as (slow, queue):
        await asyncio.gather(*(queue.ping() for _ in range(4)))
        slow.delay_s = 1.0
        await asyncio.gather(*(queue.ping() for _ in range(4)))


async def test_an_api_that_ends_while_it_reads_leaves_no_connection(queue_server: Any, tmp_path: Path) -> None:
    async with slowed(queue_server.url, tmp_path) as (slow, _):
        app = create_app(Settings(redis_url=f"unix://{tmp_path / 's'}", data_dir=tmp_path, auth="auto"))
        async with app.router.lifespan_context(app):
            parts: Service = app.state.service
            await parts.authority.ring()
            slow.delay_s = 0.2  # so that what is asked again is answered
            under_way = [
                asyncio.create_task(parts.authority._ring.read()),
                asyncio.create_task(parts.readiness.told(parts.queue, parts.catalogue)),
            ]
            await asyncio.sleep(0.1)
            for one in under_way:
                one.cancel()
        await asyncio.sleep(2.0)  # in which nothing is asked again
        assert not (await asyncio.wait(slow._serving, timeout=5))[1]


@pytest.mark.parametrize("is_slow", [True, False])
async def test_who_is_not_answered_in_time_speaks_for_those_in_line_only_where_nobody_is(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, is_slow: bool
) -> None:
    monkeypatch.setattr("server.queue_link.ANSWER_WITHIN_S", 1.2)
    link = queue._link
    link._places = asyncio.Semaphore(2)

    def takes(seconds: float) -> Any:
        return link.do(lambda: asyncio.sleep(seconds, "answered"))

    others = [takes(0.6), takes(0.7)] if is_slow else [takes(60)]
    *_, last = await asyncio.gather(takes(60), *others, takes(0), return_exceptions=True)
    assert isinstance(last, QueueUnavailable) is not is_slow


async def test_who_gets_no_turn_in_time_is_told_so_and_holds_up_nobody(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.queue_link.TURN_WITHIN_S", 0.2)
    link = queue._link
    link._places = asyncio.Semaphore(1)
    answers = asyncio.Event()
    first = asyncio.create_task(link.do(answers.wait))
    await asyncio.sleep(0)  # now it has the only place
    with pytest.raises(QueueUnavailable, match=r"more was asked of the queue than it answers in 0\.2 s"):
        await queue.ping()
    assert not first.done()
    answers.set()
    assert await first
    await queue.ping()


@pytest.mark.parametrize("error", [redis.TimeoutError("Timeout reading from socket"), TimeoutError()])
def test_what_did_not_answer_in_time_is_not_called_unreachable(error: Exception) -> None:
    said = translated(error)
    assert isinstance(said, QueueUnavailable)
    assert "in time" in str(said)
    assert "reachable" not in str(said)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancellation_that_a_client_library_loses_is_heeded_all_the_same(queue: Queue, fails: bool) -> None:
    async def loses_it() -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        if fails:
            raise redis.ConnectionError("Connection closed by server.")
        return "an answer"

    asking = asyncio.create_task(queue._link.do(loses_it))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_loop_that_asks_redis_ends_when_it_is_cancelled_at_whatever_moment(queue: Queue) -> None:
    async def ask_for_ever() -> None:
        while True:
            await queue.ping()

    for _ in range(50):
        asking = asyncio.create_task(ask_for_ever())
        await asyncio.sleep(random.random() * 0.01)
        asking.cancel()
        async with asyncio.timeout(10):
            with suppress(asyncio.CancelledError):
                await asking
        assert asking.done()
