"""The engine: add, abort, step. Many trajectories at once, each at its own stage of the loop.

    engine.add("a", trajectory)
    while engine.has_work:
        for key, event in engine.step():
            ...

Every trajectory that was added ends in exactly one terminal event.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from r3core.engine.batch import (
    Batch,
    Drawn,
    Likened,
    Looked,
    MemoryPlan,
    Output,
    Picture,
    Piece,
    Raised,
    Runner,
    Stepped,
    Text,
    Took,
    Working,
)
from r3core.engine.scheduler import Running, Scheduler
from r3core.errors import InvalidRequest, OutOfCapacity
from r3core.events import (
    Cancelled,
    Chose,
    Described,
    Event,
    Failed,
    Finished,
    ImageReady,
    Preview,
    Progress,
    Reasoned,
    Reflected,
    Scored,
    TextDelta,
)
from r3core.loop import advance, finished, is_open, needed, next_step, start_from
from r3core.steps import (
    Compared,
    Describe,
    Drew,
    Generate,
    Judge,
    Judged,
    Outcome,
    Reason,
    Reconstruct,
    Refine,
    Reflect,
    Wrote,
    draws,
)
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

    def add(self, key: str, trajectory: Trajectory, pictures: Sequence[Picture] = ()) -> None:
        """Take in a trajectory under a key of the caller's.

        `pictures` are those of `loop.needed` where it is resumed, or the caller's where the request starts from given
        pictures; the latter are announced by ImageReady first.
        Raises InvalidRequest, PromptTooLong or OutOfCapacity; nothing is kept then.
        """
        if key in self._scheduler:
            raise InvalidRequest(f"trajectory {key!r} is running already; give each its own key")
        if self.room == 0:
            raise OutOfCapacity(f"{self.max_trajectories} trajectories are running; add this one when one has ended")
        starts = trajectory.request.given_image and not trajectory.rounds
        if starts and pictures:
            trajectory = start_from(trajectory, *(picture.image for picture in pictures))
        _check_pictures(key, trajectory, pictures)
        self._runner.check(trajectory)
        if isinstance(next_step(trajectory), Generate):
            # A plan without its picture is made again: the picture is drawn from the K/V of the plan as it was written.
            trajectory = replace(trajectory, reasoning=None)
        trajectory = finished(trajectory)
        if starts:
            for candidate, picture in enumerate(pictures):
                ready = ImageReady(0, picture.image, None, picture.pixels, trajectory, candidate)
                self._news.append((key, ready))
        if trajectory.stop_reason is not None:
            self._news.append((key, Finished(trajectory)))
        else:
            self._scheduler.add(Running(key, trajectory, {picture.image.id: picture for picture in pictures}))

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
            case Stepped():
                yield from _progress(running, output)
            case Text():
                yield from self._wrote(running, output)
            case Drawn():
                yield from self._drew(running, output)
            case Looked(scores):
                yield from self._judged(running, Judged(scores))
            case Likened(similarities):
                yield from self._go_on(running, _advanced(running, Compared(similarities)))
            case Working(is_drawn):
                self._scheduler.has_worked(running.key, is_drawn=is_drawn)
            case Raised(error):
                yield Failed(error, self._remove(running.key))

    def _wrote(self, running: Running, output: Text) -> Iterator[Event]:
        if output.rest:
            yield self._delta(running, output.rest)
        step = running.step
        assert step is not None
        # A plan that is written again, for the candidates that a lost worker owes, was counted when it was new.
        is_again = isinstance(step, Reason) and bool(running.trajectory.rounds)
        spent = Usage(text_tokens=0 if is_again else output.tokens)
        after = advance(running.trajectory, step, Wrote(output.text, output.verdict))
        after = replace(after, usage=after.usage + spent)
        match step:
            case Reflect(round=index, candidate=candidate):
                yield Reflected(index, after.rounds[index].pictures[candidate].reflections[-1], candidate)
                if output.verdict is not None and step.attempt == 0:
                    yield Scored(index, candidate, output.verdict)
            case Describe():
                yield Described(output.text)
            case _:
                yield Reasoned(output.text)
        yield from self._go_on(running, after)

    def _drew(self, running: Running, output: Drawn) -> Iterator[Event]:
        step, after, round_ = running.step, running.trajectory, _round_of(running)
        assert step is not None
        instruction = step.instruction if isinstance(step, Refine) else None
        yield from _progress(running, Stepped(output.steps, output.steps, output.shown))
        for candidate, pixels in zip(draws(step), output.pictures, strict=True):
            height, width, _ = pixels.shape
            picture = Picture(Image(new_image_id(), width, height), pixels)
            after = advance(after, step, Drew(picture.image, output.forwards))
            spent = Usage(denoise_steps=output.steps, forwards=output.forwards)
            after = replace(after, usage=after.usage + spent)
            running.pictures[picture.image.id] = picture
            yield ImageReady(round_, picture.image, instruction, pixels, after, candidate)
        yield from self._go_on(running, after)

    def _judged(self, running: Running, outcome: Judged) -> Iterator[Event]:
        step = running.step
        assert isinstance(step, Judge)
        for candidate, scores in zip(step.candidates, outcome.scores, strict=True):
            for score in scores:
                yield Scored(step.round, candidate, score)
        yield from self._go_on(running, _advanced(running, outcome))

    def _go_on(self, running: Running, after: Trajectory) -> Iterator[Event]:
        yield from _choice(running.trajectory, after)
        if after.stop_reason is None:
            self._scheduler.end_step(running.key, after, _kept(running.pictures, after))
        else:
            self._remove(running.key)
            yield Finished(after)

    def _remove(self, key: str) -> Trajectory:
        self._runner.free(key)
        return self._scheduler.remove(key).trajectory

    def _delta(self, running: Running, text: str) -> TextDelta:
        match running.step:
            case Reflect(round=index, candidate=candidate):
                return TextDelta("reflect", index, text, candidate)
            case Describe():
                return TextDelta("describe", 0, text)
            case step:
                assert isinstance(step, Reason)
                return TextDelta("reason", 0, text)


def _progress(running: Running, output: Stepped) -> Iterator[Event]:
    round_ = _round_of(running)
    yield Progress(round_, output.step, output.steps)
    for shown in output.shown:
        yield Preview(round_, shown.step, output.steps, shown.pixels)


def _advanced(running: Running, outcome: Outcome) -> Trajectory:
    assert running.step is not None
    return advance(running.trajectory, running.step, outcome)


def _kept(pictures: dict[str, Picture], trajectory: Trajectory) -> Iterable[Picture]:
    """Those that later steps may look at."""
    return [pictures[image.id] for image in needed(trajectory)]


def _choice(before: Trajectory, after: Trajectory) -> Iterator[Chose]:
    """Which candidate goes on, once a round that has several is drawn and judged."""
    asked = after.request
    if asked.kind != "generate" or not asked.scorers or not before.rounds:
        return
    last = after.rounds[-1]
    if last.candidates and is_open(before) and not is_open(after) and len(before.rounds) == len(after.rounds):
        yield Chose(last.index, last.chosen, last.scores[0].value)


def _check_pictures(key: str, trajectory: Trajectory, pictures: Sequence[Picture]) -> None:
    """What steps to come look at must be here, in the request's size."""
    asked = trajectory.request
    if asked.given_image and not trajectory.rounds:
        raise InvalidRequest(f"trajectory {key!r} goes on from a picture; pass it in `pictures`")
    there = {picture.image.id for picture in pictures}
    missing = [image.id for image in needed(trajectory) if image.id not in there]
    if missing:
        raise InvalidRequest(
            f"trajectory {key!r} goes on from the picture {', '.join(missing)}; pass every one of loop.needed in "
            "`pictures`"
        )
    if asked.kind != "score":  # there each has a size of its own
        for picture in pictures:
            _check_size(picture, asked)


def _check_size(picture: Picture, asked: Request) -> None:
    """Rows are counted from the request's size: a picture of another would write over the rows of its neighbours."""
    named, held = (picture.image.width, picture.image.height), picture.pixels.shape[1::-1]
    if not named == held == (asked.width, asked.height):
        raise InvalidRequest(
            f"the picture is called {named[0]}x{named[1]}, has {held[0]}x{held[1]} pixels, and the request is for "
            f"{asked.width}x{asked.height}; resize it and name its size in the request"
        )


def _round_of(running: Running) -> int:
    match running.step:
        case Refine(round=index):
            return index
        case Reconstruct():
            return 1
        case _:
            return 0
