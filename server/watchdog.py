"""Ends a worker whose engine does not come back: a device call that never returns raises nothing, and holds jobs.

Their leases are renewed from another thread, so nobody else would take them. Only turns of the engine are watched:
whatever else a worker waits for (Redis, a store, who reads its log) may come back, and nobody would do better.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Self

import structlog

from server.worker_health import Vitals
from server.worker_thread import WorkerThread

log = structlog.get_logger("r3.worker")

LOOK_S: Final = 1.0
ENDED_WITHIN_S: Final = 60.0  # giving up takes half of it where neither Redis nor the store answers


class Watchdog:
    """Lasts as long as its `with` block. Once a `turn` has taken `vitals.hung_after_s` it calls `give_up` from a thread
    of its own, then ends the process with `exit_code`, whatever becomes of that.
    """

    def __init__(self, vitals: Vitals, give_up: Callable[[], None], exit_code: int) -> None:
        self._vitals, self._give_up, self._exit_code = vitals, give_up, exit_code
        self._lock = threading.Lock()
        self._turns = 0
        self._turning: int | None = None  # the thread, while it has a turn
        self._is_given_up = False
        self._closing = threading.Event()
        self.thread = WorkerThread("watchdog", self._run)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """What may hang is done in here. Who comes back too late stays here: its jobs are given back, and the process
        is about to end.
        """
        with self._lock:
            self._turns += 1
            self._turning = threading.get_ident()
        try:
            yield
        finally:
            with self._lock:
                self._turning = None
                is_late = self._is_given_up
            if is_late:
                threading.Event().wait()

    def _run(self) -> None:
        look_s = min(LOOK_S, self._vitals.hung_after_s / 4)
        turns, took_s, looked_at_s = 0, 0.0, time.monotonic()
        while not self._closing.wait(look_s):
            now_s, before_s = time.monotonic(), looked_at_s
            looked_at_s = now_s
            # Not by the clock: a process that was stopped is not hung when it goes on.
            took_s += min(now_s - before_s, 2 * look_s)
            with self._lock:
                if self._turning is None or self._turns != turns:
                    turns, took_s = self._turns, 0.0
                if took_s < self._vitals.hung_after_s:
                    continue
                hung, self._is_given_up = self._turning, True
            self._end(hung, took_s)
            return

    def _end(self, hung: int | None, took_s: float) -> None:
        latest = threading.Timer(ENDED_WITHIN_S, os._exit, [self._exit_code])  # a log that nobody reads blocks, too
        latest.daemon = True
        latest.start()
        try:
            self._vitals.broken = f"the engine has not come back for {took_s:.0f} s"
            frame = sys._current_frames().get(hung or 0)  # noqa: SLF001 - documented, for debuggers
            where = "".join(traceback.format_stack(frame))
            log.critical("the engine does not come back; its jobs are given back", after_s=round(took_s), where=where)
            self._give_up()
        finally:
            os._exit(self._exit_code)  # the thread that hangs would be waited for
