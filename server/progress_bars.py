"""What `r3 generate` shows while it works: a bar for the weights, then one for each trajectory, on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn

from r3core.events import (
    Cancelled,
    Chose,
    Event,
    Failed,
    Finished,
    ImageReady,
    Reasoned,
    Reflected,
    Scored,
    TextDelta,
)
from r3core.events import Progress as Denoised
from r3core.loop import wanted
from r3core.types import Request
from server.tables import plain

_WORDS_TOLD: Final = 3
_WORD_OF = {Finished: "done", Failed: "failed", Cancelled: "cancelled"}


def console() -> Console:
    """Standard error, so that standard output has the results alone."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def loading_bar(on: Console) -> Iterator[Progress]:
    """A bar in bytes; gone when the weights are there."""
    columns: tuple[ProgressColumn, ...] = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=on, transient=True, disable=not on.is_terminal) as bar:
        yield bar


class RunBars:
    """One bar a trajectory: the stage it is at, and how many tokens or denoising steps of it are done."""

    def __init__(self, request: Request, on: Console) -> None:
        self._request = request
        self._console = on
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            console=on,
            disable=not on.is_terminal,
        )
        self._tasks = [self.bars.add_task("waiting", total=None, count="") for _ in range(request.n)]
        self._stages = [""] * request.n
        self._tokens = [0] * request.n
        self._fans: set[tuple[int, int]] = set()
        """Trajectories and rounds that have several pictures."""

    def show(self, index: int, event: Event) -> None:
        """Draw what an event tells; lines of what was said stay above the bars."""
        task = self._tasks[index]
        match event:
            case TextDelta("reason"):
                self._text(index, "reason")
            case TextDelta(_, round_):
                self._text(index, f"round {round_}: reflect")
            case Denoised(round_, step, steps):
                self._stages[index] = ""
                stage = f"round {round_}: {'draw' if round_ == 0 else 'refine'}"
                self._bar(task, index, stage, step, steps, f"step {step}/{steps}")
            case Reasoned() | Reflected() | ImageReady() | Scored() | Chose():
                self._say(index, self._line(index, event))
            case Finished() | Failed() | Cancelled():
                self._end(task, index, event)
            case _:
                pass

    def _line(self, index: int, event: Reasoned | Reflected | ImageReady | Scored | Chose) -> str:
        if isinstance(event, Reasoned):
            return f"reason: {event.text}"
        if isinstance(event, ImageReady) and wanted(event.trajectory, event.round) > 1:
            self._fans.add((index, event.round))
        which = f", candidate {event.candidate}" if (index, event.round) in self._fans else ""
        return f"round {event.round}{which}: {_told(event)}"

    def _text(self, index: int, stage: str) -> None:
        if self._stages[index] != stage:
            self._stages[index], self._tokens[index] = stage, 0
        self._tokens[index] += 1
        sampling = self._request.reason if stage == "reason" else self._request.reflect
        tokens = self._tokens[index]
        self._bar(self._tasks[index], index, stage, tokens, sampling.max_tokens, f"{tokens} tokens")

    def _bar(self, task: TaskID, index: int, stage: str, done: int, total: int, count: str) -> None:
        self.bars.update(task, description=self._named(index, stage), completed=done, total=total, count=count)

    def _end(self, task: TaskID, index: int, event: Finished | Failed | Cancelled) -> None:
        word = _WORD_OF[type(event)]
        reason = event.trajectory.stop_reason
        self.bars.update(task, description=self._named(index, word), completed=1, total=1, count=reason or "")

    def _named(self, index: int, stage: str) -> str:
        return stage if self._request.n == 1 else f"trajectory {index}, {stage}"

    def _say(self, index: int, line: str) -> None:
        self._console.print(self._named(index, plain(" ".join(line.split()))), markup=False)


def _told(event: Reflected | ImageReady | Scored | Chose) -> str:
    match event:
        case Reflected(reflection=said):
            return f"{said.verdict}: {said.text}"
        case ImageReady():
            return "picture"
        case Chose():
            return "goes on"
        case Scored(score=score):
            value = "unread" if score.value is None else f"{score.value:.4g}"
            least = sorted(score.words, key=lambda word: word.lift)[:_WORDS_TOLD]
            words = ", ".join(f"{word.text} {word.lift:+.2f}" for word in least)
            return f"{score.scorer} {value}" + (f" (least: {words})" if words else "")
