"""The API's calls to Redis: a task that is cancelled ends, whatever the client library makes of it."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest

from server.queue import Queue


async def test_a_cancellation_that_a_client_library_loses_is_heeded_all_the_same(queue: Queue) -> None:
    async def loses_it() -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
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
