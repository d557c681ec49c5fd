"""Whether Redis answers, and who works, for /readyz: whoever asks is answered, and Redis is asked once a second."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import Final

from server.catalogue import Catalogue
from server.queue import Queue
from server.shared_task import given_up

FRESH_S: Final = 1.0


@dataclass(frozen=True)
class Told:
    """How many workers have a model loaded, and the models that are known."""

    workers: int
    models: tuple[str, ...]


class Readiness:
    """See above. All who ask meanwhile have the same answer, or the same QueueUnavailable."""

    def __init__(self) -> None:
        self._asked: asyncio.Task[Told] | None = None
        self._asked_s = 0.0

    async def told(self, queue: Queue, catalogue: Catalogue) -> Told:
        """Raises QueueUnavailable, ServerTooOld."""
        if self._asked is None or (self._asked.done() and monotonic() - self._asked_s >= FRESH_S):
            self._asked, self._asked_s = asyncio.create_task(_ask(queue, catalogue)), monotonic()
            self._asked.add_done_callback(lambda asked: asked.cancelled() or asked.exception())  # maybe nobody waits
        return await asyncio.shield(self._asked)

    async def close(self) -> None:
        """Ask no more: see KeyRing.close."""
        await given_up(self._asked)


async def _ask(queue: Queue, catalogue: Catalogue) -> Told:
    await queue.ping()
    loaded = [worker for worker in await queue.workers() if not worker.get("draining")]
    return Told(len(loaded), tuple(sorted(await catalogue.known())))
