"""A thread that the worker cannot do without: it runs until it is told to end, and says so where it ended otherwise."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

log = structlog.get_logger("r3.worker")


class WorkerThread(threading.Thread):
    """Runs `work`, which sees to its own troubles; where something escapes it all the same, `has_failed`."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        super().__init__(target=work, name=name, daemon=True)
        self.has_failed = False

    def run(self) -> None:
        """Called by `start`."""
        try:
            super().run()
        except BaseException:  # the worker looks at `has_failed`, and ends
            self.has_failed = True
            log.exception("a thread of the worker failed", thread=self.name)
