"""One task for all who ask at the same time: whoever of them is cancelled leaves it running for the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SharedTask(Generic[T]):
    """See above. Its answer, or its error, is everybody's for `fresh_s` seconds from when it began, too."""

    def __init__(self, fresh_s: float = 0.0) -> None:
        self._fresh_s = fresh_s
        self._task: asyncio.Task[T] | None = None
        self._began_s = 0.0

    async def answer(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What comes of it, begun by `work` where there is none."""
        if self._task is None or (self._task.done() and monotonic() - self._began_s >= self._fresh_s):
            self._task, self._began_s = asyncio.create_task(work()), monotonic()
            self._task.add_done_callback(heard)
        return await asyncio.shield(self._task)

    async def close(self) -> None:
        """End it, before what it asks is closed: it would open a connection to it anew, which nobody closes."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


def heard(task: asyncio.Task[Any]) -> None:
    """Whoever asked may be gone by now, and the error with them."""
    if not task.cancelled():
        task.exception()
