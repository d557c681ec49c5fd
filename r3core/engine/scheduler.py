"""Who runs in the next turn. Knows trajectories, cache rows and batch rows; knows no tensors.

A step takes all its cache rows when it begins and gives them back when it ends, and the oldest waiting step goes first:
no starvation. Two steps go on from rows that they hold already: the drawing of a first picture from those of its plan,
and a repeated question about a picture from those of the first. They wait at the front, lest they hold rows behind a
step that waits for them: no deadlock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from r3core.engine.batch import Batch, Begin, Need, Picture, Runner, Span
from r3core.engine.kv_cache import SpanAllocator
from r3core.errors import DeviceError, OutOfCapacity, R3Error, StepFailed
from r3core.loop import looks_at, next_step
from r3core.steps import Generate, Reason, Reflect, Step, draws
from r3core.types import Trajectory


@dataclass
class Running:
    """A trajectory in the engine: its value, the pictures that it may look at by their ids, and the step it is at."""

    key: str
    trajectory: Trajectory
    pictures: dict[str, Picture] = field(default_factory=dict)
    step: Step | None = None
    spans: tuple[Span, ...] = ()
    draw_rows: int = 0


class Scheduler:
    """Keeps the running trajectories and makes each turn's batch."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._spans = SpanAllocator(runner.cache_rows)
        self._running: dict[str, Running] = {}
        self._waiting: deque[str] = deque()  # keys whose next step has not begun, oldest first
        self._drawing: deque[str] = deque()  # keys that draw, in the order of their turns
        self._refused: list[tuple[str, R3Error]] = []

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, key: str) -> bool:
        return key in self._running

    def __getitem__(self, key: str) -> Running:
        return self._running[key]

    @property
    def rows_held(self) -> int:
        """Cache rows that steps hold."""
        return self._spans.rows - self._spans.free_rows

    def add(self, running: Running) -> None:
        """Take in a trajectory that has a next step."""
        self._running[running.key] = running
        self._waiting.append(running.key)

    def remove(self, key: str) -> Running:
        """Let a trajectory go, wherever it is, and free its place."""
        running = self._running.pop(key)
        for queue in (self._waiting, self._drawing):
            if key in queue:
                queue.remove(key)
        self._release(running)
        return running

    def end_step(self, key: str, trajectory: Trajectory, pictures: Iterable[Picture]) -> None:
        """A step came to its end: keep what the next one builds on, give the rest back, and wait for a turn."""
        running = self._running[key]
        if key in self._drawing:
            self._drawing.remove(key)
        before, after = running.step, next_step(trajectory)
        running.trajectory, running.step, running.draw_rows = trajectory, None, 0
        running.pictures = {picture.image.id: picture for picture in pictures}
        if _keeps(before, after):
            self._waiting.appendleft(key)
        else:
            self._release(running)
            self._waiting.append(key)

    def has_worked(self, key: str, *, is_drawn: bool) -> None:
        """A turn of a step is done. What is drawn needs no forward any more, and takes the place of nobody who does."""
        if is_drawn:
            self._running[key].draw_rows = 0

    def schedule(self) -> Batch:
        """The next turn: steps that can begin, all that write or judge, and as many that draw as one forward holds."""
        begin = tuple(self._begin())
        begun = {b.key for b in begin}
        text = tuple(k for k, r in self._running.items() if k in begun or _is_in_text(r.step))
        return Batch(begin=begin, text=text, draw=tuple(self._draw()))

    def refused(self) -> list[tuple[str, R3Error]]:
        """Trajectories whose next step cannot be counted or needs more cache rows than there are, and why: they will
        never begin.
        """
        refused, self._refused = self._refused, []
        return refused

    def _begin(self) -> list[Begin]:
        begun: list[Begin] = []
        rows = 0
        while self._waiting:
            running = self._running[self._waiting[0]]
            step = next_step(running.trajectory)
            assert step is not None, "a finished trajectory must be removed"
            need = self._need(running, step)
            if isinstance(need, R3Error):
                self._refused.append((self._waiting.popleft(), need))
                continue
            if begun and rows + need.prefill_rows > self._runner.max_batch_rows:
                break
            keeps = bool(running.spans)
            if not self._take(running, need):
                break
            rows += need.prefill_rows
            self._waiting.popleft()
            running.step, running.draw_rows = step, need.draw_rows
            if draws(step):
                self._drawing.append(running.key)
            pictures = tuple(running.pictures[image.id] for image in looks_at(running.trajectory, step))
            begun.append(Begin(running.key, step, running.trajectory, running.spans, pictures, keeps))
        return begun

    def _need(self, running: Running, step: Step) -> Need | R3Error:
        """What a step takes, or why it will never begin: whatever is wrong with one must not end the others."""
        try:
            need = self._runner.need(step, running.trajectory, keeps=bool(running.spans))
        except DeviceError:
            raise
        except R3Error as error:
            return error
        except Exception as error:  # noqa: BLE001 - reported as this trajectory's failure
            return StepFailed.because_of(error)
        if sum(need.spans) > self._spans.rows:
            return OutOfCapacity(
                f"the next step needs {sum(need.spans)} cache rows and {self._spans.rows} were planned at start; "
                "ask for shorter texts or a smaller size"
            )
        return need

    def _take(self, running: Running, need: Need) -> bool:
        if running.spans:
            return True
        spans = self._spans.take(need.spans)
        if spans is None:
            return False
        running.spans = spans
        return True

    def _draw(self) -> list[str]:
        """Take turns from the front until the forward is full; who had a turn goes to the back."""
        chosen: list[str] = []
        rows = 0
        for key in self._drawing:
            rows += self._running[key].draw_rows
            if chosen and rows > self._runner.max_batch_rows:
                break
            chosen.append(key)
        self._drawing.rotate(-len(chosen))
        return chosen

    def _release(self, running: Running) -> None:
        self._spans.give_back(running.spans)
        running.spans = ()


def _is_in_text(step: Step | None) -> bool:
    """Whether a step goes on in every text forward, from its first to its last."""
    return step is not None and not draws(step)


def _keeps(before: Step | None, after: Step | None) -> bool:
    """Whether the next step goes on from the contexts of this one."""
    match before, after:
        case Reason(), Generate():
            return True
        case Reflect(round=a, candidate=c), Reflect(round=b, candidate=d):
            return (a, c) == (b, d)
        case _:
            return False
