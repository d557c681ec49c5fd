"""What the engine says of a trajectory under way, as items for the publisher: texts, progress, previews, pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from r3core.events import Event, ImageReady, Preview, Progress, Reasoned, Reflected, TextDelta
from server.held import HeldJob
from server.pace import Pace
from server.publications import Item, Keep, Say, Show, Tell, event
from server.queue_records import Event as JobEvent


class Telling:
    """Joins text, slows progress, and hands everything on in order."""

    def __init__(self, put: Callable[[Item], None], pace: Pace | None = None) -> None:
        self._put = put
        self._pace = pace or Pace()

    def tell(self, job: HeldJob, index: int, said: Event) -> None:
        """Hand on one event of trajectory `index`; its end is not told here."""
        match said:
            case TextDelta(stage, round_, text):
                if ready := self._pace.text(job.key(index), text):
                    self._put(Say(job.lease, (_delta(job, index, stage, round_, ready),)))
            case Reasoned(text):
                self._text_done(job, index, ("reason", 0), event(job.lease, "reason.done", index, text=text))
            case Reflected():
                self._text_done(job, index, ("reflect", said.round), _reflect_done(job, index, said))
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

    def _text_done(
        self, job: HeldJob, index: int, stage: tuple[Literal["reason", "reflect"], int], done: JobEvent
    ) -> None:
        rest = self._pace.rest(job.key(index))
        last = _delta(job, index, *stage, rest)
        last.data["at"] = done.data["at"]  # it is said before the whole, and was not made after it
        self._put(Say(job.lease, (last, done) if rest else (done,)))


def _delta(job: HeldJob, index: int, stage: Literal["reason", "reflect"], round_: int, text: str) -> JobEvent:
    if stage == "reason":
        return event(job.lease, "reason.delta", index, text=text)
    return event(job.lease, "reflect.delta", index, round=round_, text=text)


def _reflect_done(job: HeldJob, index: int, said: Reflected) -> JobEvent:
    what = said.reflection
    return event(
        job.lease,
        "reflect.done",
        index,
        round=said.round,
        text=what.text,
        thought=what.thought,
        verdict=what.verdict.value,
        instruction=what.instruction,
    )


def _keep(job: HeldJob, said: ImageReady) -> Keep:
    usage = job.spent_on(said.trajectory)
    return Keep(job.lease, said.round, said.image, said.instruction, said.pixels, said.trajectory, usage)
