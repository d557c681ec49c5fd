"""A job's events, a type for each, told apart with `match` or `isinstance`.

Numbered events have an `id`, which rises by one within the job; live ones (progress, previews) have none. `Waiting`
is the client's own: it tells that nothing comes at the moment, and when it will try again.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Final

from pydantic import Field

from r3client.models import Image, Job, JobError, Reflection, Score, Shape, StopReason


class _Event(Shape):
    name: ClassVar[str]
    is_last: ClassVar[bool] = False

    id: int | None = Field(None, description="The number by which a stream is taken up again.")
    job_id: str
    trajectory: int | None
    at: datetime


class JobQueued(_Event):
    """The job waits."""

    name = "job.queued"
    position: int
    eta_s: float | None


class JobStarted(_Event):
    """A worker has taken the job; with an attempt above 1, unfinished texts are made again."""

    name = "job.started"
    attempt: int
    resumed_from_round: list[int | None] | None


class ReasonDelta(_Event):
    """A piece of the reasoning text."""

    name = "reason.delta"
    text: str


class ReasonDone(_Event):
    """The whole reasoning text."""

    name = "reason.done"
    text: str


class ImageProgress(_Event):
    """Live: a picture is being drawn."""

    name = "image.progress"
    round: int
    step: int
    steps: int


class ImagePreview(_Event):
    """Live: what the picture would be if drawing ended here."""

    name = "image.preview"
    round: int
    step: int
    steps: int
    image: Image


class ImageDone(_Event):
    """A picture is finished; `candidate` says which, where its round has several."""

    name = "image"
    round: int
    candidate: int | None = None
    image: Image
    instruction: str | None


class ReflectDelta(_Event):
    """A piece of a reflection."""

    name = "reflect.delta"
    round: int
    candidate: int | None = None
    text: str


class ReflectDone(_Event, Reflection):
    """A whole reflection."""

    name = "reflect.done"
    round: int
    candidate: int | None = None


class Scored(_Event, Score):
    """What one scorer says of a picture. After a lost worker it may be said again: the later word counts."""

    name = "score"
    round: int
    candidate: int


class Chosen(_Event):
    """Which of a round's pictures goes on, and what the first scorer gave it."""

    name = "chosen"
    round: int
    candidate: int
    score: float | None


class DescribeDelta(_Event):
    """A piece of a description, or of the answer to a question about a picture."""

    name = "describe.delta"
    text: str


class DescribeDone(_Event):
    """The whole description or answer."""

    name = "describe.done"
    text: str


class TrajectoryDone(_Event):
    """A trajectory is at its end."""

    name = "trajectory.done"
    stop_reason: StopReason | str
    image: Image | None


class JobSucceeded(_Event):
    """Last: the job has succeeded."""

    name = "job.succeeded"
    is_last = True
    job: Job


class JobFailed(_Event):
    """Last: the job has failed."""

    name = "job.failed"
    is_last = True
    error: JobError


class JobCancelled(_Event):
    """Last: the job was cancelled."""

    name = "job.cancelled"
    is_last = True


class StreamReset(_Event):
    """The job as it stands, in place of events that are no longer kept."""

    name = "stream.reset"
    job: Job


class Other(_Event):
    """An event that this client does not know; its fields are attributes."""

    name = ""
    event: str


class Waiting(Shape):
    """Of the client's own making: it waits `seconds` before it tries again. No `job_id` while the job is not taken."""

    name: ClassVar[str] = "waiting"
    is_last: ClassVar[bool] = False

    id: None = None
    job_id: str | None
    trajectory: None = None
    reason: str
    seconds: float
    was_answered: bool = Field(description="Whether the server said so itself; else nothing answered.")


class StreamClosing(_Event):
    """The server ends this connection, not the job. The client acts on it; no one else sees it."""

    name = "stream.closing"
    reason: str
    retry_ms: int


LastEvent = JobSucceeded | JobFailed | JobCancelled
Event = (
    JobQueued
    | JobStarted
    | ReasonDelta
    | ReasonDone
    | ImageProgress
    | ImagePreview
    | ImageDone
    | ReflectDelta
    | ReflectDone
    | Scored
    | Chosen
    | DescribeDelta
    | DescribeDone
    | TrajectoryDone
    | LastEvent
    | StreamReset
    | Waiting
    | Other
)
Received = Event | StreamClosing

EVENTS: Final[dict[str, Any]] = {
    kind.name: kind
    for kind in (
        *(JobQueued, JobStarted, ReasonDelta, ReasonDone, ImageProgress, ImagePreview, ImageDone),
        *(ReflectDelta, ReflectDone, Scored, Chosen, DescribeDelta, DescribeDone),
        *(TrajectoryDone, JobSucceeded, JobFailed, JobCancelled),
        *(StreamReset, StreamClosing),
    )
}


def read_event(name: str, data: dict[str, Any], number: int | None) -> Received:
    """The event of that name. Raises pydantic's ValidationError where it has not the shape that its name promises."""
    kind = EVENTS.get(name)
    if kind is None:
        return Other.model_validate({**data, "id": number, "event": name})
    event: Received = kind.model_validate({**data, "id": number})
    return event
