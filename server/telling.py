"""What the engine says of a trajectory under way, as items for the publisher: texts, progress, previews, pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from r3core.events import (
    Chose,
    Described,
    Event,
    ImageReady,
    Preview,
    Progress,
    Reasoned,
    Reflected,
    Scored,
    TextDelta,
)
from r3core.loop import wanted
from r3core.types import Trajectory
from server.held import HeldJob
from server.pace import Pace
from server.publications import Item, Keep, Say, Show, Tell, event
from server.queue_records import Event as JobEvent

Whole = Reasoned | Reflected | Described
_STAGE_OF: Final[dict[type[Whole], str]] = {Reasoned: "reason", Reflected: "reflect", Described: "describe"}


class Telling:
    """Joins text, slows progress, and hands everything on in order."""

    def __init__(self, put: Callable[[Item], None], pace: Pace | None = None) -> None:
        self._put = put
        self._pace = pace or Pace()

    def tell(self, job: HeldJob, index: int, said: Event) -> None:
        """Hand on one event of trajectory `index`; its end is not told here."""
        match said:
            case TextDelta(stage):
                if ready := self._pace.text(job.key(index), said.text):
                    self._put(Say(job.lease, (_of_text(job, index, f"{stage}.delta", said, text=ready),)))
            case Reasoned() | Reflected() | Described():
                self._text_done(job, index, said)
            case Scored(round_, candidate, score):
                what = {"round": round_, "candidate": candidate, **asdict(score)}
                self._put(Say(job.lease, (event(job.lease, "score", index, **what),)))
            case Chose(round_, candidate, value):
                told = event(job.lease, "chosen", index, round=round_, candidate=candidate, score=value)
                self._put(Say(job.lease, (told,)))
            case Progress(round_, step, steps):
                if self._pace.may_tell_progress(job.key(index)):
                    told = event(job.lease, "image.progress", index, round=round_, step=step, steps=steps)
                    self._put(Tell(job.lease, told))
            case Preview(round_, step, steps, pixels):
                told = event(job.lease, "image.preview", index, round=round_, step=step, steps=steps)
                self._put(Show(job.lease, index, round_, pixels, told))
            case ImageReady():
                self._put(_keep(job, said))

    def forget(self, job: HeldJob, index: int) -> None:
        """The trajectory has ended; what is unsaid of a text stays so."""
        self._pace.forget(job.key(index))

    def _text_done(self, job: HeldJob, index: int, said: Whole) -> None:
        rest = self._pace.rest(job.key(index))
        stage = _STAGE_OF[type(said)]
        whole = asdict(said.reflection) if isinstance(said, Reflected) else {"text": said.text}
        done = _of_text(job, index, f"{stage}.done", said, **whole)
        last = _of_text(job, index, f"{stage}.delta", said, text=rest)
        last.data["at"] = done.data["at"]  # it is said before the whole, and was not made after it
        self._put(Say(job.lease, (last, done) if rest else (done,)))


def _of_text(job: HeldJob, index: int, name: str, said: TextDelta | Whole, **fields: Any) -> JobEvent:
    """An event of a text; one of a reflection says of which picture."""
    where: dict[str, int] = {}
    if isinstance(said, Reflected) or (isinstance(said, TextDelta) and said.stage == "reflect"):
        where = {"round": said.round, **_candidate(job.newest[index], said.round, said.candidate)}
    return event(job.lease, name, index, **where, **fields)


def _candidate(trajectory: Trajectory, round_: int, candidate: int) -> dict[str, int]:
    """Which of its round's pictures it is, where there are several."""
    return {"candidate": candidate} if wanted(trajectory, round_) > 1 else {}


def _keep(job: HeldJob, said: ImageReady) -> Keep:
    usage = job.spent_on(said.trajectory)
    where = {"round": said.round, **_candidate(said.trajectory, said.round, said.candidate)}
    return Keep(job.lease, where, said.image, said.instruction, said.pixels, said.trajectory, usage)
