"""The shapes of answers and events, as the contract (openapi.yaml) states them; tests hold what is really sent against
them.

Nothing here runs while a request is served: answers are plain dicts, made in job_view.py and the routes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from r3core.judge import Scorer
from r3core.types import Kind, StopReason, Verdict
from server.errors import CODES
from server.schemas import JobStatus

Json = dict[str, Any]
JobId = Annotated[str, Field(pattern=r"^job_[0-9a-f]{32}$")]
ImageId = Annotated[str, Field(pattern=r"^img_[0-9a-f]{32}$")]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, description="RFC 3339, UTC")]


class View(BaseModel):
    """A shape without fields of other names."""

    model_config = ConfigDict(extra="forbid")


class FaultView(View):
    """One thing that is wrong with a request."""

    pointer: str = Field(description="JSON pointer (RFC 6901) into the body, or the parameter's name after a slash.")
    detail: str


class OpenAiError(View):
    """The same for the `openai` clients, which read nothing else."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    code: str
    param: str | None
    job_id: JobId | SkipJsonSchema[None] = None


class Problem(BaseModel):
    """Every error (RFC 9457)."""

    type: str = Field(description="urn:r3:problem: and the code")
    title: str
    status: int
    detail: str = Field(description="What was wrong, with the value, and what to do.")
    instance: str
    code: str = Field(description="A stable word in snake_case.", examples=sorted(CODES))
    request_id: str
    errors: list[FaultView] | SkipJsonSchema[None] = Field(None, description="Every fault of the request.")
    job_id: JobId | SkipJsonSchema[None] = Field(None, description="The job that failed.")
    scope: Literal["server", "tenant"] | SkipJsonSchema[None] = Field(
        None, description="Whose share of the queue is full."
    )
    error: OpenAiError


class ImageView(View):
    """A finished picture."""

    id: ImageId
    url: str
    width: int
    height: int
    format: Literal["png", "webp", "jpeg"]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    b64_json: str | SkipJsonSchema[None] = Field(None, description='The bytes, with response_format "b64_json".')


class ReflectionView(View):
    """What the model said of a picture."""

    text: str
    thought: str
    verdict: Verdict
    instruction: str | None = Field(description="Null where the text is malformed.")


class WordView(View):
    """A word of the prompt."""

    text: str
    lift: float = Field(description="How much likelier the picture makes it, as a logarithm.")


class ScoreView(View):
    """What one scorer says of a picture."""

    scorer: Scorer
    value: float | None = Field(description="Null where it could not be read.")
    lift: float | None = Field(description="By gvu and lift: the mean over the prompt's tokens.")
    words: list[WordView] = Field(description="By gvu and lift: the lowest are what the picture fails to show.")


class CandidateView(View):
    """One of several pictures of a round."""

    image: ImageView | None
    instruction: str | None
    scores: list[ScoreView]
    reflection: ReflectionView | None


_JUDGED = "Of a judged job."


class RoundView(View):
    """A picture, the edit that made it, and what was then said of it."""

    index: int
    image: ImageView | None
    instruction: str | None = Field(description="Null for round 0.")
    reflection: ReflectionView | None = Field(description="The last one; null where the model was not asked.")
    reflections: list[ReflectionView]
    scores: list[ScoreView] | SkipJsonSchema[None] = Field(None, description=_JUDGED)
    candidates: list[CandidateView] | SkipJsonSchema[None] = Field(
        None, description="Of a judged job: every picture of the round, where several were drawn; else none."
    )
    chosen: int | SkipJsonSchema[None] = Field(None, description="Which of the candidates stands as the round's.")
    from_round: int | None = Field(None, description="Of a judged job: the round whose picture was edited.")


class TrajectoryView(View):
    """One of the request's independent trajectories."""

    index: int
    seed: int
    reasoning: str | None
    rounds: list[RoundView]
    stop_reason: StopReason | None
    image: ImageView | None = Field(description="The final one: the last, or where it was asked for the best.")


class JobError(View):
    """Why a job failed."""

    code: str
    message: str


class Usage(View):
    """What was spent."""

    text_tokens: int
    denoise_steps: int
    forwards: int = Field(description="Guidance-branch passes over noisy latents.")
    compute_s: float
    images: int | SkipJsonSchema[None] = Field(None, description="Of a judged job: the pictures that were drawn.")
    discarded_images: int | SkipJsonSchema[None] = Field(
        None, description="Of a judged job: those of them that no result was made from."
    )
    discarded_forwards: int | SkipJsonSchema[None] = Field(None, description="The forwards that these took.")


class Parent(View):
    """Where the picture that a job started from came from; or, where trajectory and round are null, the job that this
    one is another try of.
    """

    job: JobId
    trajectory: int | None
    round: int | None


class Links(View):
    """Relative addresses."""

    self: str
    events: str
    cancel: str
    stop: str


class ScoredImage(View):
    """One of the caller's pictures."""

    image: ImageView | None
    scores: list[ScoreView]


class ScoreResult(View):
    """Of POST /score: the pictures in the order in which they were given."""

    images: list[ScoredImage]


class ReflectResult(View):
    """Of POST /reflect."""

    reflection: ReflectionView | None


class DescribeResult(View):
    """Of POST /describe."""

    text: str | None


class RoundtripResult(View):
    """Of POST /roundtrip."""

    source: ImageView | None
    description: str | None
    reconstruction: ImageView | None
    similarities: dict[str, float] | None = Field(
        description="self, latent and psnr are proxies by the model's own eyes; a named model's is the cosine."
    )


class JobView(View):
    """A job as it stands."""

    id: JobId
    kind: Kind | SkipJsonSchema[None] = Field(None, description="Of what is no generation.")
    result: ScoreResult | ReflectResult | DescribeResult | RoundtripResult | SkipJsonSchema[None] = Field(
        None, description="With kind: what it came to so far."
    )
    status: JobStatus
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    model: str
    prompt: str
    params: Json = Field(description="Every setting as it was resolved, seed included.")
    queue_position: int | None = Field(description="1 is the next; null unless queued.")
    eta_s: float | None = Field(description="Seconds until started, from the measured rate; null where unknown.")
    trajectories: list[TrajectoryView]
    error: JobError | None
    attempt: int
    usage: Usage
    metadata: dict[str, str]
    parent: Parent | SkipJsonSchema[None] = None
    links: Links


class JobList(View):
    """A page of jobs, newest first."""

    jobs: list[JobView]
    next_cursor: str | None


class ShareView(View):
    """A read-only link to a job."""

    url: str = Field(description="Relative; good for GET alone.")
    expires_at: Time


class SessionView(View):
    """Who calls. `key` is the id of the key, which is no secret; null where nobody is asked for one."""

    tenant: str
    key: str | None
    scopes: list[Literal["read", "generate", "admin"]]
