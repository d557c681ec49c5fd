"""Ends a worker whose engine does not come back: a device call that never returns raises nothing, and holds jobs.

Their leases are renewed from another thread, so nobody else would take them. Where the call keeps Python from running
at all, the leases run out by themselves.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final, Self

import structlog

from server.worker_health import Vitals
from server.worker_thread import WorkerThread

log = structlog.get_logger("r3.worker")

LOOK_S: Final = 1.0


class Watchdog:
    """Watches over the thread of the `with` block, from a thread of its own: once nothing has beaten for
    `vitals.hung_after_s` it calls `give_up`, then ends the process with `exit_code`, whatever became of that.
    """

    def __init__(self, vitals: Vitals, give_up: Callable[[], None], exit_code: int) -> None:
        self._vitals, self._give_up, self._exit_code = vitals, give_up, exit_code
        self._watched = 0
        self._closing = threading.Event()
        self.thread = WorkerThread("watchdog", self._run)

    def __enter__(self) -> Self:
        self._watched = threading.get_ident()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()

    def _run(self) -> None:
        beat, still_s, looked_at_s = self._vitals.beat_at_s, 0.0, time.monotonic()
        look_s = min(LOOK_S, self._vitals.hung_after_s / 4)
        while not self._closing.wait(look_s):
            now_s, before_s = time.monotonic(), looked_at_s
            looked_at_s = now_s
            if beat != self._vitals.beat_at_s:
                beat, still_s = self._vitals.beat_at_s, 0.0
                continue
            # Not by the clock: a process that was stopped is not hung when it goes on.
            still_s += min(now_s - before_s, 2 * look_s)
            if still_s >= self._vitals.hung_after_s:
                self._end(still_s)

    def _end(self, still_s: float) -> None:
        try:
            frame = sys._current_frames()[self._watched]  # noqa: SLF001 - documented, as a debugger uses it
            where = "".join(traceback.format_stack(frame))
            log.critical("the engine does not come back; its jobs are given back", after_s=round(still_s), where=where)
            self._vitals.broken = f"the engine has not come back for {still_s:.0f} s"
            self._give_up()
        finally:
            logging.shutdown()
            os._exit(self._exit_code)  # the thread that hangs would be waited for
