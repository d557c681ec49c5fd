"""Trajectories run by the engine, watched from outside: when which event came."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from r3core.engine.batch import Picture, Took
from r3core.engine.engine import Engine
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
from r3core.types import Trajectory


@dataclass
class Seen:
    """What was seen of one trajectory, in seconds since it was asked for.

    `phases` are its stages with what each took, `texts` the tokens of each text, `steps` and `pieces` the moments of
    denoising steps and of pieces of text.
    """

    asked_s: float
    phases: list[tuple[str, float]] = field(default_factory=list)
    texts: list[int] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    pieces: list[float] = field(default_factory=list)
    first_image_s: float | None = None
    first_preview_s: float | None = None
    end: Trajectory | None = None
    seconds: float = 0.0
    pictures: list[Picture] = field(default_factory=list)
    _written: int = 0

    @property
    def first_token_s(self) -> float | None:
        """When the first piece of text was there."""
        return self.pieces[0] if self.pieces else None

    @property
    def trajectory(self) -> Trajectory:
        """The trajectory at its end."""
        assert self.end is not None, "the trajectory has not ended"
        return self.end

    def of(self, phase: str) -> list[float]:
        """Seconds of each phase of that name."""
        return [seconds for name, seconds in self.phases if name == phase]

    def see(self, event: Event) -> None:
        """Take in an event at the moment it arrives."""
        now_s = time.perf_counter() - self.asked_s
        match event:
            case TextDelta():
                self.pieces.append(now_s)
            case Progress():
                self.steps.append(now_s)
            case Preview() if self.first_preview_s is None:
                self.first_preview_s = now_s
            case Reasoned():
                self._phase("reason", now_s)
            case Reflected():
                self._phase("reflect", now_s)
            case ImageReady(round=index, pixels=pixels, trajectory=trajectory):
                self._image(index, Picture(event.image, pixels), trajectory, now_s)
            case Finished(trajectory=trajectory):
                self._count(trajectory)
                self.end, self.seconds = trajectory, now_s
            case Failed(error=error):
                raise error
            case Cancelled():
                raise AssertionError("nobody cancels here")

    def _image(self, index: int, picture: Picture, trajectory: Trajectory, now_s: float) -> None:
        self.pictures.append(picture)
        if trajectory.request.given_image and index == 0:
            return
        self._phase("refine" if index else "generate", now_s)
        self._count(trajectory)
        if self.first_image_s is None:
            self.first_image_s = now_s

    def _phase(self, name: str, now_s: float) -> None:
        self.phases.append((name, now_s - sum(seconds for _, seconds in self.phases)))

    def _count(self, trajectory: Trajectory) -> None:
        """A text's tokens are told with the picture that comes of it, or with the end."""
        if more := trajectory.usage.text_tokens - self._written:
            self.texts.append(more)
            self._written += more


@dataclass(frozen=True)
class Driven:
    """All trajectories of a run, the moment at which each turn of the engine ended, and what it says its parts took."""

    seen: list[Seen]
    turns: list[float]
    took: list[Took]

    @property
    def seconds(self) -> float:
        """How long all of it took."""
        return self.turns[-1]


def drop_all(engine: Engine) -> None:
    """Let go of what a run left behind that did not come to its end."""
    for i in range(2 * engine.max_trajectories):
        engine.abort(str(i))
    while engine.has_work:
        engine.step()


def drive(engine: Engine, asked: Sequence[Trajectory], pictures: Sequence[Picture] = ()) -> Driven:
    """Run trajectories together to their end; all of them are given the same pictures."""
    engine.took()
    turns: list[float] = []
    took: list[Took] = []
    began_s = time.perf_counter()
    seen = {str(i): Seen(began_s) for i in range(len(asked))}
    for key, trajectory in zip(seen, asked, strict=True):
        engine.add(key, trajectory, pictures)
    while engine.has_work:
        for key, event in engine.step():
            seen[key].see(event)
        turns.append(time.perf_counter() - began_s)
        took += engine.took()
    return Driven(list(seen.values()), turns, took)
