"""The engine: add, abort, step. Many trajectories at once, each at its own stage of the loop.

    engine.add("a", trajectory)
    while engine.has_work:
        for key, event in engine.step():
            ...

Every trajectory that was added ends in exactly one terminal event.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace

from r3core.engine.batch import Batch, Drawn, MemoryPlan, Output, Picture, Piece, Raised, Runner, Stepped, Text, Took
from r3core.engine.scheduler import Running, Scheduler
from r3core.errors import InvalidRequest, OutOfCapacity
from r3core.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    ImageReady,
    Preview,
    Progress,
    Reasoned,
    Reflected,
    TextDelta,
)
from r3core.loop import Drew, Generate, Reason, Refine, Reflect, Wrote, advance, finished, start_from
from r3core.types import Image, Request, Trajectory, Usage


def new_image_id() -> str:
    """A picture's id: 128 random bits, not guessable."""
    return f"img_{secrets.token_hex(16)}"


class Engine:
    """Runs trajectories to their end, up to `max_trajectories` at a time."""

    def __init__(self, runner: Runner, max_trajectories: int = 8) -> None:
        self.max_trajectories = max_trajectories
        self._runner = runner
        self._scheduler = Scheduler(runner)
        self._aborted: list[str] = []
        self._news: list[tuple[str, Event]] = []  # events that need no computing

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(len(self._scheduler) or self._news)

    @property
    def room(self) -> int:
        """How many more trajectories may be added now."""
        return max(0, self.max_trajectories - len(self._scheduler))

    def plan(self) -> MemoryPlan:
        """What the device holds, decided at start."""
        return self._runner.plan()

    @property
    def kv_cache_used_bytes(self) -> int:
        """Bytes of the K/V cache that steps hold now."""
        plan = self._runner.plan()
        return plan.kv_cache_bytes * self._scheduler.rows_held // max(1, plan.kv_cache_rows)

    def memory_used_bytes(self) -> int | None:
        """Memory of the device that is taken, by whomever; None where it is a CPU. May be asked from any thread."""
        return self._runner.memory_used_bytes()

    def took(self) -> list[Took]:
        """What was computed since this was last asked, and how long it took."""
        return self._runner.took()

    def check(self, trajectory: Trajectory) -> None:
        """Raise what `add` would raise of the request itself."""
        self._runner.check(trajectory)

    def add(self, key: str, trajectory: Trajectory, picture: Picture | None = None) -> None:
        """Take in a trajectory under a key of the caller's.

        `picture` is its newest one: the picture of the last finished round where it is resumed, or the caller's where
        the request starts from a given picture; the latter is announced by ImageReady first.
        Raises InvalidRequest, PromptTooLong or OutOfCapacity; nothing is kept then.
        """
        if key in self._scheduler:
            raise InvalidRequest(f"trajectory {key!r} is running already; give each its own key")
        if self.room == 0:
            raise OutOfCapacity(f"{self.max_trajectories} trajectories are running; add this one when one has ended")
        needs_picture = trajectory.request.given_image or bool(trajectory.rounds)
        if needs_picture and picture is None:
            raise InvalidRequest(f"trajectory {key!r} goes on from a picture; pass it as `picture`")
        if picture is not None:
            _check_size(picture, trajectory.request)
        self._runner.check(trajectory)
        if trajectory.request.given_image and not trajectory.rounds:
            assert picture is not None
            trajectory = finished(start_from(trajectory, picture.image))
            self._news.append((key, ImageReady(0, picture.image, None, picture.pixels, trajectory)))
        elif not trajectory.rounds:
            # A plan without its picture is made again: the picture is drawn from the K/V of the plan as it was written.
            trajectory = replace(trajectory, reasoning=None)
        else:
            trajectory = finished(trajectory)
        if trajectory.stop_reason is not None:
            self._news.append((key, Finished(trajectory)))
        else:
            self._scheduler.add(Running(key, trajectory, picture))

    def abort(self, key: str) -> None:
        """End a trajectory with Cancelled at the next step; unknown and ended keys are ignored."""
        if key in self._scheduler and key not in self._aborted:
            self._aborted.append(key)

    def step(self) -> list[tuple[str, Event]]:
        """Schedule, run, update: one turn of the engine. Empty where there was nothing to do."""
        events = self._news + list(self._drop_aborted())
        self._news = []
        batch: Batch = self._scheduler.schedule()
        events += [(key, Failed(error, self._remove(key))) for key, error in self._scheduler.refused()]
        if batch:
            outputs = self._runner.run(batch)
            events += self._update(outputs)
        return events

    def _drop_aborted(self) -> Iterator[tuple[str, Event]]:
        for key in self._aborted:
            if key in self._scheduler:
                yield key, Cancelled(self._remove(key))
        self._aborted = []

    def _update(self, outputs: dict[str, Output]) -> Iterator[tuple[str, Event]]:
        for key, output in outputs.items():
            for event in self._turn(self._scheduler[key], output):
                yield key, event

    def _turn(self, running: Running, output: Output) -> Iterator[Event]:
        match output:
            case Piece(text):
                if text:
                    yield self._delta(running, text)
            case Stepped(step, steps, preview):
                round_ = _round_of(running)
                yield Progress(round_, step, steps)
                if preview is not None:
                    yield Preview(round_, step, steps, preview)
            case Text():
                yield from self._wrote(running, output)
            case Drawn():
                yield from self._drew(running, output)
            case Raised(error):
                yield Failed(error, self._remove(running.key))

    def _wrote(self, running: Running, output: Text) -> Iterator[Event]:
        if output.rest:
            yield self._delta(running, output.rest)
        step, spent = running.step, Usage(text_tokens=output.tokens)
        assert step is not None
        after = advance(running.trajectory, step, Wrote(output.text))
        after = replace(after, usage=after.usage + spent)
        if isinstance(step, Reflect):
            said = after.rounds[-1].reflection
            assert said is not None
            yield Reflected(step.round, said)
        else:
            yield Reasoned(output.text)
        yield from self._go_on(running, after, running.picture)

    def _drew(self, running: Running, output: Drawn) -> Iterator[Event]:
        height, width, _ = output.pixels.shape
        picture = Picture(Image(new_image_id(), width, height), output.pixels)
        step = running.step
        assert isinstance(step, Generate | Refine)
        after = advance(running.trajectory, step, Drew(picture.image))
        after = replace(after, usage=after.usage + Usage(denoise_steps=output.steps, forwards=output.forwards))
        instruction = step.instruction if isinstance(step, Refine) else None
        yield Progress(_round_of(running), output.steps, output.steps)
        yield ImageReady(_round_of(running), picture.image, instruction, output.pixels, after)
        yield from self._go_on(running, after, picture)

    def _go_on(self, running: Running, after: Trajectory, picture: Picture | None) -> Iterator[Event]:
        if after.stop_reason is None:
            self._scheduler.end_step(running.key, after, picture)
        else:
            self._remove(running.key)
            yield Finished(after)

    def _remove(self, key: str) -> Trajectory:
        self._runner.free(key)
        return self._scheduler.remove(key).trajectory

    def _delta(self, running: Running, text: str) -> TextDelta:
        if isinstance(running.step, Reflect):
            return TextDelta("reflect", running.step.round, text)
        assert isinstance(running.step, Reason)
        return TextDelta("reason", 0, text)


def _check_size(picture: Picture, asked: Request) -> None:
    """Rows are counted from the request's size: a picture of another would write over the rows of its neighbours."""
    named, held = (picture.image.width, picture.image.height), picture.pixels.shape[1::-1]
    if not named == held == (asked.width, asked.height):
        raise InvalidRequest(
            f"the picture is called {named[0]}x{named[1]}, has {held[0]}x{held[1]} pixels, and the request is for "
            f"{asked.width}x{asked.height}; resize it and name its size in the request"
        )


def _round_of(running: Running) -> int:
    return running.step.round if isinstance(running.step, Refine) else 0
