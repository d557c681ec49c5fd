"""Jobs and what they hold, as the server tells them. What a newer server adds is kept beside what is known here."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from r3client.errors import PillowMissing, R3Error

if TYPE_CHECKING:
    import PIL.Image

JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Verdict = Literal["edit", "satisfied", "malformed"]
StopReason = Literal["satisfied", "max_rounds", "malformed", "score", "budget", "deadline", "stopped", "done"]
Scorer = Literal["gvu", "lift", "vqa", "verdict"]
Kind = Literal["generate", "score", "reflect", "describe", "roundtrip"]
# Answers may hold a newer server's words beside those: one job of a kind unknown here is no reason to read no page of
# jobs. What a job stands at is another matter: whoever waits could not tell whether it has ended.


class Shape(BaseModel):
    """A value of the server's; it does not change."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Image(Shape):
    """A picture; `content` is its bytes, where they were fetched or came with the answer as base64."""

    id: str
    url: str
    width: int
    height: int
    format: str = Field(pattern="^[a-z0-9]{1,16}$", description="png, webp or jpeg.")
    sha256: str
    content: bytes | None = Field(None, exclude=True, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _bytes_of_base64(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "b64_json" not in value:
            return value
        try:
            content = base64.b64decode(value["b64_json"], validate=True)
        except (ValueError, TypeError) as error:
            raise ValueError("b64_json is no base64") from error
        return {**{name: kept for name, kept in value.items() if name != "b64_json"}, "content": content}

    @property
    def suffix(self) -> str:
        """How the name of a file with these bytes ends."""
        return "jpg" if self.format == "jpeg" else self.format

    def pil(self) -> PIL.Image.Image:
        """As a PIL image. Raises PillowMissing."""
        try:
            import PIL.Image
        except ImportError as error:
            told = "a PIL image needs Pillow, which is not installed: pip install pillow; the bytes are in .content"
            raise PillowMissing(told) from error
        picture = PIL.Image.open(io.BytesIO(self._fetched()))
        picture.load()
        return picture

    def save(self, path: str | Path) -> Path:
        """Write the bytes to a file, as they are."""
        file = Path(path)
        file.write_bytes(self._fetched())
        return file

    def _fetched(self) -> bytes:
        if self.content is None:
            raise R3Error(f"the bytes of {self.id} were not fetched; client.image({self.id!r}) does it")
        return self.content


class Reflection(Shape):
    """What the model said of a picture."""

    text: str
    thought: str
    verdict: Verdict | str
    instruction: str | None


class WordLift(Shape):
    """A word of the prompt, and how much likelier the picture makes it; the lowest are what it fails to show."""

    text: str
    lift: float


class Score(Shape):
    """What a scorer says of a picture; None where it could not tell. `gvu` and `lift` say it of every word too."""

    scorer: Scorer | str
    value: float | None
    lift: float | None = None
    words: list[WordLift] = []


class Candidate(Shape):
    """One of several pictures of a round."""

    image: Image | None
    instruction: str | None
    scores: list[Score]
    reflection: Reflection | None


class Round(Shape):
    """A picture, the edit that made it, and what was then said of it.

    Jobs that ask for scores have them here. Where several pictures were drawn, `candidates` has all of them, and the
    round is that of the `chosen` one. `from_round` is the round whose picture was edited.
    """

    index: int
    image: Image | None
    instruction: str | None
    reflection: Reflection | None
    reflections: list[Reflection]
    scores: list[Score] = []
    candidates: list[Candidate] = []
    chosen: int = 0
    from_round: int | None = None

    @property
    def every_image(self) -> list[Image]:
        """All pictures that were drawn for it."""
        drawn = [candidate.image for candidate in self.candidates] or [self.image]
        return [image for image in drawn if image is not None]

    def score(self, scorer: Scorer | str) -> float | None:
        """What that scorer gave its picture; None where it gave nothing."""
        return next((score.value for score in self.scores if score.scorer == scorer), None)


class Trajectory(Shape):
    """One of the request's independent tries."""

    index: int
    seed: int
    reasoning: str | None
    rounds: list[Round]
    stop_reason: StopReason | str | None
    image: Image | None


class ScoredImage(Shape):
    """One of the pictures that were to be scored."""

    image: Image | None
    scores: list[Score]

    def value(self, scorer: Scorer | str) -> float | None:
        """What that scorer gave it; None where it could not tell, or was not asked."""
        return next((score.value for score in self.scores if score.scorer == scorer), None)


class ScoreResult(Shape):
    """What came of a score: the pictures in the order in which they were given."""

    images: list[ScoredImage]


class ReflectResult(Shape):
    """What came of a reflection; None while it is not there."""

    reflection: Reflection | None


class DescribeResult(Shape):
    """What came of a description; None while it is not there."""

    text: str | None


class RoundtripResult(Shape):
    """What came of a round trip, as far as it is there. `self`, `latent` and `psnr` are proxies."""

    source: Image | None
    description: str | None
    reconstruction: Image | None
    similarities: dict[str, float] | None

    def with_contents(self, contents: dict[str, bytes]) -> RoundtripResult:
        """The same with these bytes, by their images' ids."""
        seen = {"source": self.source, "reconstruction": self.reconstruction}
        return self.model_copy(update={name: _image_with(image, contents) for name, image in seen.items()})


class OtherResult(Shape):
    """What came of a job of a kind that this client does not know; its fields are attributes."""


Result = ScoreResult | ReflectResult | DescribeResult | RoundtripResult | OtherResult
_RESULT_OF: Final[dict[str, type[Result]]] = {
    "score": ScoreResult,
    "reflect": ReflectResult,
    "describe": DescribeResult,
    "roundtrip": RoundtripResult,
}


class JobError(Shape):
    """Why a job failed."""

    code: str
    message: str


class Usage(Shape):
    """What was spent; jobs that ask for scores tell how many pictures, and what of it the result was not made from."""

    text_tokens: int
    denoise_steps: int
    forwards: int
    compute_s: float
    images: int | None = None
    discarded_images: int | None = None
    discarded_forwards: int | None = None


class Parent(Shape):
    """Where the picture that a job started from came from, or the job that this one is another try of."""

    job: str
    trajectory: int | None
    round: int | None


class Links(Shape):
    """Relative addresses."""

    self: str
    events: str
    cancel: str
    stop: str


class Job(Shape):
    """A job as it stands; one that is no generation has a `kind` and a `result`, as far as it has come."""

    id: str
    kind: Kind | str = "generate"
    result: Result | None = None
    status: JobStatus
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    model: str
    prompt: str
    params: dict[str, Any]
    queue_position: int | None
    eta_s: float | None
    trajectories: list[Trajectory]
    error: JobError | None
    attempt: int
    usage: Usage
    metadata: dict[str, str]
    parent: Parent | None = None
    links: Links

    @field_validator("result", mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any, job: ValidationInfo) -> Any:
        """By the kind, for what two kinds hold may look alike."""
        if value is None or isinstance(value, Shape):
            return value
        return _RESULT_OF.get(job.data.get("kind", ""), OtherResult).model_validate(value)

    @property
    def is_finished(self) -> bool:
        """Whether it is at its end."""
        return self.status not in ("queued", "running")

    @property
    def image(self) -> Image | None:
        """The final picture; with several trajectories, the first's that has one."""
        return next(iter(self.images), None)

    @property
    def images(self) -> list[Image]:
        """The final picture of every trajectory that has one."""
        return [t.image for t in self.trajectories if t.image is not None]

    def every_image(self) -> Iterator[Image]:
        """The pictures of all rounds, those that were not chosen among them."""
        return (image for t in self.trajectories for r in t.rounds for image in r.every_image)

    def with_contents(self, contents: dict[str, bytes]) -> Job:
        """The same with these bytes, by their images' ids."""
        trajectories = [_trajectory_with(trajectory, contents) for trajectory in self.trajectories]
        return self.model_copy(update={"trajectories": trajectories})


class JobPage(Shape):
    """A page of jobs, newest first."""

    jobs: list[Job]
    next_cursor: str | None


class Share(Shape):
    """A read-only link to a job."""

    url: str
    expires_at: datetime


def _trajectory_with(trajectory: Trajectory, contents: dict[str, bytes]) -> Trajectory:
    rounds = [_round_with(round_, contents) for round_ in trajectory.rounds]
    return trajectory.model_copy(update={"rounds": rounds, "image": _image_with(trajectory.image, contents)})


def _round_with(round_: Round, contents: dict[str, bytes]) -> Round:
    candidates = [c.model_copy(update={"image": _image_with(c.image, contents)}) for c in round_.candidates]
    update = {"image": _image_with(round_.image, contents), **({"candidates": candidates} if candidates else {})}
    return round_.model_copy(update=update)


def _image_with(image: Image | None, contents: dict[str, bytes]) -> Image | None:
    if image is None or image.id not in contents:
        return image
    return image.model_copy(update={"content": contents[image.id]})
