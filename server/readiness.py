"""Whether Redis answers, and who works, for /readyz: whoever asks is answered, and Redis is asked once a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from server.catalogue import Catalogue
from server.queue import Queue
from server.shared_task import SharedTask

FRESH_S: Final = 1.0


@dataclass(frozen=True)
class Told:
    """How many workers have a model loaded, and the models that are known."""

    workers: int
    models: tuple[str, ...]


class Readiness:
    """See above. All who ask meanwhile have the same answer, or the same QueueUnavailable."""

    def __init__(self) -> None:
        self._asked = SharedTask[Told](FRESH_S)

    async def told(self, queue: Queue, catalogue: Catalogue) -> Told:
        """Raises QueueUnavailable, ServerTooOld."""
        return await self._asked.answer(lambda: _ask(queue, catalogue))

    async def close(self) -> None:
        """Ask no more; to be called before the queue is closed."""
        await self._asked.close()


async def _ask(queue: Queue, catalogue: Catalogue) -> Told:
    await queue.ping()
    loaded = [worker for worker in await queue.workers() if not worker.get("draining")]
    return Told(len(loaded), tuple(sorted(await catalogue.known())))
