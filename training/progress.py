"""Stages side by side, a process each, with bars in the terminal and a log beside what they make.

Only the parent draws: bars of two processes would overwrite each other. Where there is no terminal, the lines of the
log are all that is printed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Protocol

import torch.multiprocessing as mp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Report(Protocol):
    """How a stage says that `done` of `total` steps of a part are done, and now and then a line for the log."""

    def __call__(self, part: str, done: int, total: int, line: str | None = None) -> None:
        """Tell; nobody is waited for."""


Stage = Callable[[Report], None]


class Told:
    """A stage's end of the way to the parent; it goes into the stage's process."""

    def __init__(self, queue: Queue[tuple[str, int, int, str | None]]) -> None:
        self._queue = queue

    def __call__(self, part: str, done: int, total: int, line: str | None = None) -> None:
        """Tell the parent."""
        self._queue.put((part, done, total, line))


class Board:
    """The parent's: a log, and bars where `console` is a terminal."""

    def __init__(self, log: Path, console: Console | None = None) -> None:
        self._path, self._started = log, time.monotonic()
        self._bars = Progress(
            TextColumn("{task.description:>8}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console or Console(file=sys.stdout),
        )
        self._tasks: dict[str, TaskID] = {}

    def log(self, line: str) -> None:
        """A line with the minutes since the start, to the file and above the bars."""
        text = f"{(time.monotonic() - self._started) / 60:7.2f} min  {line}"
        self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
        with self._path.open("a") as file:
            file.write(text + "\n")

    def together(self, stages: Mapping[str, Stage]) -> None:
        """Run stages side by side until all are done. Raises SystemExit naming the first that fails; that ends all."""
        context = mp.get_context("spawn")
        queue: Queue[tuple[str, int, int, str | None]] = context.Queue()
        processes = {name: context.Process(target=stage, args=(Told(queue),)) for name, stage in stages.items()}
        for process in processes.values():
            process.start()
        if self._bars.console.is_terminal:
            self._bars.start()
        try:
            running = True
            while running:
                running = any(process.is_alive() for process in processes.values())
                self._hear(queue, patience=0.2 if running else 0.0)
                for name, process in processes.items():
                    if process.exitcode:
                        raise SystemExit(f"stage {name} failed; its message stands above. Run this again to go on.")
        finally:
            for process in processes.values():
                process.terminate()
                process.join()
            if self._bars.console.is_terminal:
                self._bars.stop()

    def _hear(self, queue: Queue[tuple[str, int, int, str | None]], patience: float) -> None:
        """Take in all that was told, waiting at most `patience` seconds for the first word."""
        while True:
            try:
                part, done, total, line = queue.get(timeout=patience) if patience else queue.get_nowait()
            except Empty:
                return
            patience = 0.0
            if line is not None:
                self.log(f"{part} {line}")
            if self._bars.console.is_terminal:
                if part not in self._tasks:
                    self._tasks[part] = self._bars.add_task(part, total=total)
                self._bars.update(self._tasks[part], completed=done)
