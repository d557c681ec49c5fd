"""Driving an engine by its three verbs, and reading what it said."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from r3core.engine.batch import Picture
from r3core.engine.engine import Engine
from r3core.events import (
    TERMINAL,
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
from r3core.types import Image, Request, Trajectory

if TYPE_CHECKING:
    from r3core.events import Pixels

Log = list[tuple[str, Event]]
TOO_MANY_STEPS: Final = 20_000
# One letter an event: a plan, a picture, any number of looks and edits, one end.
_LETTERS: Final = {
    Reasoned: "R",
    Progress: "p",
    Preview: "v",
    ImageReady: "I",
    Reflected: "F",
    Described: "D",
    Scored: "s",
    Chose: "c",
    Finished: "E",
    Failed: "X",
    Cancelled: "C",
}
# Steps and previews of a picture: a preview may be there only after later steps, with another that was quicker.
_DRAWING: Final = r"(p[pv]*)?"
# A round: its pictures, their scores and looks, which one goes on, and more looks.
_ROUND: Final = r"I+(s|t*Fs?)*c?(t*F)*"
FINISHED: Final = re.compile(rf"(d*R)?{_DRAWING}{_ROUND}({_DRAWING}{_ROUND})*E")
CUT_SHORT: Final = re.compile(rf"((d*R)?{_DRAWING}({_ROUND}({_DRAWING}{_ROUND})*)?(d|t)*{_DRAWING})?[XC]")


def drive(engine: Engine) -> Log:
    """All that the engine says until nothing is left to do."""
    log: Log = []
    for _ in range(TOO_MANY_STEPS):
        if not engine.has_work:
            return log
        log += engine.step()
    raise AssertionError(f"the engine still has work after {TOO_MANY_STEPS} steps")


def by_key(log: Log) -> dict[str, list[Event]]:
    """Each trajectory's events in their order."""
    events: defaultdict[str, list[Event]] = defaultdict(list)
    for key, event in log:
        events[key].append(event)
    return dict(events)


def spelt(events: Sequence[Event]) -> str:
    """The events as a word; pieces of a plan are d, pieces of a reflection t."""
    letters = (
        (("d" if e.stage == "reason" else "t") if isinstance(e, TextDelta) else _LETTERS[type(e)]) for e in events
    )
    return "".join(letters)


def check_order(events: Sequence[Event]) -> None:
    """Exactly one end, at the end; texts and pictures in the order of the loop; pieces that join to their texts."""
    word = spelt(events)
    assert (FINISHED if word.endswith("E") else CUT_SHORT).fullmatch(word), word
    assert sum(isinstance(event, TERMINAL) for event in events) == 1
    pieces: list[str] = []
    rounds = 0
    done = shown = (0, 0)  # the round and step of the last progress and the last preview
    for event in events:
        if isinstance(event, Progress):
            done = (event.round, event.step)
        if isinstance(event, Preview):
            assert shown < (event.round, event.step) <= done
            assert event.round == done[0]
            shown = (event.round, event.step)
        if isinstance(event, TextDelta):
            assert event.text
            pieces.append(event.text)
        if isinstance(event, Reasoned | Reflected):
            whole = event.text if isinstance(event, Reasoned) else event.reflection.text
            assert "".join(pieces) == whole
            pieces = []
        if isinstance(event, ImageReady):
            assert event.image == event.trajectory.rounds[-1].pictures[event.candidate].image
            assert event.round == event.trajectory.rounds[-1].index
            rounds += 1


def end_of(events: Sequence[Event]) -> Trajectory:
    """The trajectory of the terminal event."""
    last = events[-1]
    assert isinstance(last, Finished | Failed | Cancelled)
    return last.trajectory


def nameless(trajectory: Trajectory) -> Trajectory:
    """The trajectory with its pictures' random names taken off."""

    def named(image: Image) -> Image:
        return replace(image, id="")

    rounds = tuple(
        replace(
            r,
            image=named(r.image),
            candidates=tuple(replace(c, image=named(c.image)) for c in r.candidates),
        )
        for r in trajectory.rounds
    )
    return replace(trajectory, rounds=rounds)


def pictures(events: Sequence[Event]) -> dict[int, Pixels]:
    """The finished pictures by round; of several candidates the first."""
    ready = [event for event in events if isinstance(event, ImageReady) and event.candidate == 0]
    return {event.round: event.pixels for event in ready}


def plain_picture(width: int = 64, height: int = 64) -> Picture:
    """A picture of a caller's: a gradient, so that its corners differ."""
    ramp = np.linspace(0, 255, width, dtype=np.uint8)[None, :, None]
    pixels = np.broadcast_to(ramp, (height, width, 3)).copy()
    return Picture(Image(f"img_{7:032x}", width, height), pixels)


@dataclass(frozen=True)
class Alone:
    """What a request came to with nobody beside it."""

    events: list[Event]

    @property
    def trajectory(self) -> Trajectory:
        return end_of(self.events)

    @property
    def pictures(self) -> dict[int, Pixels]:
        return pictures(self.events)


def alone(engine: Engine, request: Request, pictures: Sequence[Picture] = (), index: int = 0) -> Alone:
    """Run one trajectory on an engine that does nothing else."""
    engine.add("alone", Trajectory(request, index), pictures)
    return Alone(by_key(drive(engine))["alone"])
