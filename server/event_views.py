"""The shapes of events (SSE `data:`) by name; what is sent is made by the worker, the scripts and stream.py."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from r3core.types import StopReason
from server.answers import ref
from server.views import (
    ImageId,
    ImageView,
    JobError,
    JobId,
    JobView,
    Json,
    ReflectionView,
    ScoreView,
    Time,
    View,
)


class EventView(View):
    """What every event holds."""

    job_id: JobId
    trajectory: int | None = Field(description="Null in events of the job.")
    at: Time


Candidate = Annotated[
    int | SkipJsonSchema[None], Field(description="Which picture of its round, where that has several.")
]


class JobQueued(EventView):
    """The job waits. The first is numbered; later ones, where its place has changed, are live."""

    position: int
    eta_s: float | None


class JobStarted(EventView):
    """A worker has taken the job; a client drops the unfinished texts that it had."""

    attempt: int
    resumed_from_round: list[int | None] | None = Field(
        description="Null on a first start; else each trajectory's last finished round."
    )


class ReasonDelta(EventView):
    """A piece of the reasoning text."""

    text: str


class ReasonDone(EventView):
    """The whole reasoning text."""

    text: str


class ImageProgress(EventView):
    """Live: a picture is being drawn."""

    round: int
    step: int
    steps: int


class PreviewView(View):
    """A small WebP, kept as long as the events."""

    id: ImageId
    url: str
    width: int
    height: int
    format: Literal["webp"]
    sha256: str
    b64_json: str | None = None


class ImagePreview(ImageProgress):
    """Live: what the picture would be if drawing ended here."""

    image: PreviewView


class ImageDone(EventView):
    """A picture is finished."""

    round: int
    candidate: Candidate = None
    image: ImageView
    instruction: str | None


class ReflectDelta(EventView):
    """A piece of a reflection."""

    round: int
    candidate: Candidate = None
    text: str


class ReflectDone(ReflectionView, EventView):
    """A whole reflection."""

    round: int
    candidate: Candidate = None


class ScoreDone(ScoreView, EventView):
    """One scorer's word on a picture. After a worker was lost it may come again, for the same picture."""

    round: int
    candidate: int


class ChosenDone(EventView):
    """Which of its round's pictures goes on."""

    round: int
    candidate: int
    score: float | None = Field(description="The first scorer's.")


class DescribeDelta(EventView):
    """A piece of a description, or of the answer to a question about a picture."""

    text: str


class DescribeDone(EventView):
    """The whole description or answer."""

    text: str


class TrajectoryDone(EventView):
    """A trajectory is at its end; jobs beside /generate do not tell it."""

    stop_reason: StopReason
    image: ImageView | None


class JobSucceeded(EventView):
    """Last: the job has succeeded."""

    job: JobView


class JobFailed(EventView):
    """Last: the job has failed."""

    error: JobError


class JobCancelled(EventView):
    """Last: the job was cancelled."""


class StreamReset(EventView):
    """The job as it stands, in place of events that are no longer kept; `id:` is the last event it covers."""

    job: JobView


class StreamClosing(EventView):
    """We end this stream, not the job: come back with Last-Event-ID after `retry_ms`."""

    reason: Literal[
        "shutdown",
        "slow_client",
        "stuck_client",
        "queue_unavailable",
        "storage_unavailable",
        "job_deleted",
        "unauthorized",
        "keys_unavailable",
    ]
    retry_ms: int


EVENTS: Final[dict[str, type[EventView]]] = {
    "job.queued": JobQueued,
    "job.started": JobStarted,
    "reason.delta": ReasonDelta,
    "reason.done": ReasonDone,
    "image.progress": ImageProgress,
    "image.preview": ImagePreview,
    "image": ImageDone,
    "reflect.delta": ReflectDelta,
    "reflect.done": ReflectDone,
    "score": ScoreDone,
    "chosen": ChosenDone,
    "describe.delta": DescribeDelta,
    "describe.done": DescribeDone,
    "trajectory.done": TrajectoryDone,
    "job.succeeded": JobSucceeded,
    "job.failed": JobFailed,
    "job.cancelled": JobCancelled,
    "stream.reset": StreamReset,
    "stream.closing": StreamClosing,
}
LIVE: Final = frozenset({"image.progress", "image.preview", "stream.closing"})


_STREAM_ABOUT: Final = (
    "One of the stream's server-sent events. Numbered ones carry `id:`, which rises by one within the job; live ones "
    "do not, and are never replayed. A heartbeat is a comment line."
)


def stream_schema() -> Json:
    """An event of a stream, as OpenAPI 3.1 can say it: the schema is of one event, for there is none for a sequence."""
    return {"description": _STREAM_ABOUT, "oneOf": [_event_schema(name, model) for name, model in EVENTS.items()]}


def _event_schema(name: str, model: type[EventView]) -> Json:
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": ref(model)}
    return {
        "type": "object",
        "description": (model.__doc__ or "").strip() + (" Live." if name in LIVE else ""),
        "required": ["event", "data"],
        "properties": {
            "event": {"const": name},
            "data": data,
            "id": {"type": "string"},
            "retry": {"type": "integer"},
        },
    }
