"""What other threads say to the engine's loop."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from server.held import Ready


@dataclass(frozen=True)
class Order:
    """End a job: because it was cancelled, because it is good enough, or because its lease is lost.

    A token names the lease that is meant; without one it is whichever is held.
    """

    word: Literal["cancel", "stop", "lost"]
    job_id: str
    token: int | None = None


class Inbox:
    """Jobs that are ready, orders, and being asked to leave. One thread reads."""

    def __init__(self) -> None:
        # A SimpleQueue alone may be put to by a signal handler while this very thread waits on it.
        self._line: queue.SimpleQueue[Ready | Order | None] = queue.SimpleQueue()
        self._heard: deque[Ready | Order | None] = deque()
        self.asked_to_leave = 0
        """How often; the second time it is urgent."""

    def put(self, what: Ready | Order) -> None:
        """Say it; the loop wakes up where it was idle."""
        self._line.put(what)

    def leave(self) -> None:
        """Ask the worker to leave. May be called from a signal handler."""
        self.asked_to_leave += 1
        self._line.put(None)

    def wait(self, timeout_s: float) -> None:
        """Until something is said, at most so long."""
        with suppress(queue.Empty):
            self._heard.append(self._line.get(timeout=timeout_s))

    def read(self) -> Iterator[Ready | Order]:
        """All that was said."""
        with suppress(queue.Empty):
            while True:
                said = self._heard.popleft() if self._heard else self._line.get_nowait()
                if said is not None:
                    yield said
