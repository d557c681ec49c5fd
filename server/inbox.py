"""What other threads say to the engine's loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
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
    """Jobs that are ready, orders, and being asked to leave."""

    def __init__(self) -> None:
        self._line: queue.SimpleQueue[Ready | Order] = queue.SimpleQueue()
        self._wake = threading.Event()
        self.asked_to_leave = 0
        """How often; the second time it is urgent."""

    def put(self, what: Ready | Order) -> None:
        """Say it; the loop wakes up where it was idle."""
        self._line.put(what)
        self._wake.set()

    def leave(self) -> None:
        """Ask the worker to leave. May be called from a signal handler."""
        self.asked_to_leave += 1
        self._wake.set()

    def wait(self, timeout_s: float) -> None:
        """Until something is said, at most so long."""
        self._wake.wait(timeout_s)
        self._wake.clear()

    def read(self) -> Iterator[Ready | Order]:
        """All that was said."""
        while True:
            try:
                yield self._line.get_nowait()
            except queue.Empty:
                return
