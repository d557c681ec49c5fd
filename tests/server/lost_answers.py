"""Queues whose answers are lost on the way: Redis has done what it was asked to, and who asked does not know."""

from __future__ import annotations

from typing import Any

import redis

from server.queue import Queue
from server.queue_link import Link
from server.queue_worker import WorkerQueue


class LossyQueue(Queue):
    """The API's queue; where `loses` is set, the next answer is lost, and the queue's own code asks again."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._link.__class__ = _LossyLink
        self._run = self._link.run

    @property
    def loses(self) -> bool:
        """Whether the next answer of a script is lost."""
        return bool(getattr(self._link, "loses", False))

    @loses.setter
    def loses(self, yes: bool) -> None:
        vars(self._link)["loses"] = yes


class _LossyLink(Link):
    loses = False

    async def _eval(self, name: str, args: tuple[str | float, ...]) -> Any:
        answer = await super()._eval(name, args)
        if self.loses:
            self.loses = False
            raise redis.ConnectionError("the answer was lost")
        return answer


class LossyWorkerQueue(WorkerQueue):
    """A worker's queue, likewise."""

    loses = False

    def _eval(self, name: str, args: tuple[str | float, ...]) -> Any:
        answer = super()._eval(name, args)
        if self.loses:
            self.loses = False
            raise redis.ConnectionError("the answer was lost")
        return answer
