"""The queue for a command on this machine: the one that is named, else the data directory's, which is started for the
moment where nothing runs there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from server.embedded import lent
from server.misconfigured import Misconfigured
from server.preflight import check_data_dir, check_redis_answers, check_redis_url
from server.queue import Queue, QueueError
from server.settings import Settings

T = TypeVar("T")


def asked_of_queue(settings: Settings, what: Callable[[Queue], Awaitable[T]]) -> T:
    """What the queue answers. Raises Misconfigured where none answers."""

    async def asked(url: str) -> T:
        queue = Queue(url)
        try:
            return await what(queue)
        finally:
            await queue.close()

    with _queue_url(settings) as url:
        try:
            return asyncio.run(asked(url))
        except QueueError as error:
            raise Misconfigured(f"nothing was changed: {error}") from error


@contextmanager
def _queue_url(settings: Settings) -> Iterator[str]:
    if settings.redis_url is not None:
        check_redis_answers(check_redis_url(settings))
        yield settings.redis_url
        return
    check_data_dir(settings.data_dir)
    with lent(settings.data_dir) as url:
        yield url
