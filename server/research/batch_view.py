"""What `r3 batch` shows: a bar on a terminal; elsewhere a line for each tenth."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from server.research.prompts import Line
from server.tables import plain

_TENTHS: Final = 10
_SHOWN: Final = 40  # characters of a prompt
_SAID_AGAIN_S: Final = 30.0


class BatchView:
    """How far a run is; `done` of its `total` prompts were there before."""

    def __init__(self, on: Console, total: int, done: int) -> None:
        self._console, self._total, self._done, self._failed = on, total, done, 0
        self._under_way: dict[int, str] = {}
        self._bar = Progress(
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=on,
            disable=not on.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=done, note="")

    def __enter__(self) -> Self:
        if self._done:
            self.say(f"{self._done} of {self._total} prompts are there already")
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, line: Line) -> None:
        """A prompt is asked for."""
        self._under_way[line.number] = line.prompt
        self._note()

    def end(self, line: Line, *, failed: bool) -> None:
        """Its pictures are there, or will not be."""
        del self._under_way[line.number]
        self._failed += failed
        self._done += 1
        self._bar.update(self._task, completed=self._done)
        self._note()
        tenth = self._done * _TENTHS // self._total
        if not self._console.is_terminal and tenth > (self._done - 1) * _TENTHS // self._total:
            self.say(f"{self._done} of {self._total} prompts" + (f", {self._failed} failed" if self._failed else ""))

    def say(self, line: str) -> None:
        """A remark."""
        self._console.print(plain(line), markup=False, soft_wrap=True)

    def _note(self) -> None:
        failed = f"{self._failed} failed  " if self._failed else ""
        oldest = next(iter(self._under_way.values()), "")
        self._bar.update(self._task, note=failed + plain(oldest[:_SHOWN]))


@contextmanager
def silenced_client(view: BatchView) -> Iterator[None]:
    """The client's own warnings, of which every job under way has the same, are said once in a while."""
    log = logging.getLogger("r3client")
    handler = _Seldom(view)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _Seldom(logging.Handler):
    def __init__(self, view: BatchView) -> None:
        super().__init__()
        self._view, self._said_at = view, float("-inf")

    def emit(self, record: logging.LogRecord) -> None:
        if time.monotonic() - self._said_at > _SAID_AGAIN_S:
            self._said_at = time.monotonic()
            self._view.say(record.getMessage())
