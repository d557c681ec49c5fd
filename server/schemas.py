"""What a client may ask for: the body of POST /generate, what every job's body has, and the query parameters of the
other routes.

Unknown fields are refused, types are strict (no "1" for 1), and null is the same as leaving a field out. What
depends on the model (sizes, defaults) or on several fields together is judged in resolve.py. The bodies of the jobs
beside /generate stand in task_schemas.py.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from r3core.judge import SCORERS, Scorer
from r3core.types import MOST_CACHED, SEED_LIMIT, Choose, OnRegression, RenormType
from server.hook_rules import MAX_URL_CHARS, Target
from server.keys import TENANT_PATTERN

MAX_PROMPT_CHARS = 4000
MAX_IMAGES = 4096  # more than can be asked for by any other way
MAX_DEADLINE_S = 10 * 365 * 24 * 3600.0  # longer is the same as none
Priority = Literal["high", "normal", "low"]
OutputFormat = Literal["png", "webp", "jpeg"]
ResponseFormat = Literal["url", "b64_json"]
JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
TerminalEvent = Literal["job.succeeded", "job.failed", "job.cancelled"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class TextSamplingCreate(_Strict):
    """How a text is sampled; what is left out is the checkpoint's default."""

    max_tokens: Annotated[int, Field(ge=1, le=2048)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, description="0 is greedy.")] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1000, description="0 is off; ignored where top_p is below 1.")] | None = None


def _rising(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) for v in value):
        low, high = value
        if not low < high:
            raise ValueError("the first number must be below the second")
    return value


class GenerateSamplingCreate(_Strict):
    """How the first picture is drawn; what is left out is the checkpoint's default."""

    num_timesteps: Annotated[int, Field(ge=2, le=200, description="N timesteps are N-1 steps.")] | None = None
    cfg_text_scale: Annotated[float, Field(ge=0, le=20, description="1 or less: no guidance at all.")] | None = None
    cfg_interval: (
        Annotated[
            list[Annotated[float, Field(ge=0, le=1)]],
            Field(min_length=2, max_length=2, description="Guidance is on where lo < t <= hi."),
            BeforeValidator(_rising),
        ]
        | None
    ) = None
    cfg_renorm_type: RenormType | None = None
    cfg_renorm_min: Annotated[float, Field(ge=0, le=1)] | None = None
    timestep_shift: Annotated[float, Field(gt=0, le=10)] | None = None
    step_cache: (
        Annotated[
            int,
            Field(
                ge=1,
                le=MOST_CACHED,
                description="One of so many steps is computed, and the others follow; 1: all are.",
            ),
        ]
        | None
    ) = None


class RefineSamplingCreate(GenerateSamplingCreate):
    """How an edit is drawn; what is left out is the checkpoint's default."""

    cfg_img_scale: Annotated[float, Field(ge=0, le=20)] | None = None


class ScoreStopCreate(_Strict):
    """Stop when the score is reached, or has not risen for so many rounds."""

    scorer: Scorer = Field(description="One of judge.scorers.")
    at_least: float | None = Field(None, description="Reached with this; not for gvu, whose level hangs on the prompt.")
    min_gain: Annotated[float, Field(ge=0)] = Field(0.0, description="A rise is more than nothing, and at least this.")
    patience: Annotated[int, Field(ge=1, le=8)] = Field(1, description="So many rounds running without a rise.")


class EarlyStopCreate(_Strict):
    """Stop when the model is satisfied, `confirmations` times running for the same picture, or by its scores."""

    on_satisfied: bool = True
    confirmations: Annotated[int, Field(ge=1, le=5)] = 1
    score: ScoreStopCreate | None = None
    all: bool = Field(False, description="Stop when every rule that is on says so; else the first that does is enough.")


def _from_bool(value: Any) -> Any:
    if isinstance(value, bool):
        return {"on_satisfied": value}
    if not isinstance(value, dict | EarlyStopCreate):
        raise ValueError("must be true, false, or an object with on_satisfied, confirmations, score and all")
    return value


def _each_once(scorers: list[Scorer]) -> list[Scorer]:
    if twice := [name for name in SCORERS if scorers.count(name) > 1]:
        raise ValueError(f"names {twice[0]} more than once; name each scorer once")
    return scorers


Scorers = Annotated[
    list[Scorer],
    Field(min_length=1, max_length=len(SCORERS), json_schema_extra={"uniqueItems": True}),
    AfterValidator(_each_once),
]


class JudgeCreate(_Strict):
    """Score every picture. The first scorer decides wherever a picture is to be chosen."""

    scorers: Scorers


class CandidatesCreate(_Strict):
    """How many pictures are drawn where one is needed; the best goes on, the others are kept."""

    first: Annotated[int, Field(ge=1, le=8, description="First pictures; a given picture has no others.")] = 1
    refine: Annotated[int, Field(ge=1, le=4, description="Refinements by one instruction.")] = 1


SIZE = re.compile(r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$")


def size_text(value: str) -> str:
    """A size as it is written. Raises ValueError."""
    if not SIZE.fullmatch(value):
        raise ValueError("must be WIDTHxHEIGHT, two whole numbers of pixels with an x between them")
    return value


def _sendable(url: str) -> str:
    Target.parse(url)
    return url


class WebhookCreate(_Strict):
    """Where the job's end is POSTed to, signed, and again until it is taken; only hosts that the operator allows."""

    url: Annotated[
        str, AfterValidator(_sendable), Field(json_schema_extra={"pattern": "^https?://", "maxLength": MAX_URL_CHARS})
    ]
    events: Annotated[list[TerminalEvent], Field(min_length=1, max_length=3)] | None = Field(
        None, description="Only these ends; every one unless given."
    )


_MetadataKey = Annotated[str, StringConstraints(max_length=64)]
_MetadataValue = Annotated[str, StringConstraints(max_length=512)]


def _nullable(schema: dict[str, Any]) -> None:
    """Say in the schema what `_null_is_absent` does: null for an optional field is its default."""
    for name, spec in schema["properties"].items():
        if name not in schema.get("required", ()) and {"type": "null"} not in spec.get("anyOf", ()):
            outside = {k: spec.pop(k) for k in ("default", "description", "title") if k in spec}
            schema["properties"][name] = {"anyOf": [spec, {"type": "null"}], **outside}


class JobCreate(_Strict):
    """What every job is asked with: the model, the seed, how it waits, and how its end is told."""

    model_config = ConfigDict(json_schema_extra=_nullable)

    model: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None, description="A name of /info; may be left out where only one model is known."
    )
    seed: Annotated[int, Field(ge=0, le=SEED_LIMIT - 1)] | None = Field(
        None, description="Random below 2^32 unless given; trajectory i draws with seed + i."
    )
    priority: Priority = "normal"
    deadline_s: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Give up waiting and computing after this many seconds; what is finished is kept."
    )
    webhook: WebhookCreate | None = Field(None, description="Off on this server: refused.")
    stream: bool | None = Field(None, description="Answer with the job's events, as with Accept: text/event-stream.")
    cancel_on_disconnect: bool = Field(
        False, description="Cancel the job where the client that streams or waits hangs up."
    )
    metadata: Annotated[dict[_MetadataKey, _MetadataValue], Field(max_length=16)] = Field({}, description="Echoed.")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        required = {name for name, field in cls.model_fields.items() if field.is_required()}
        return {k: v for k, v in value.items() if v is not None or k in required}


class _GenerationFields(_Strict):
    prompt: Annotated[
        str, Field(min_length=1, max_length=MAX_PROMPT_CHARS, description="What the picture should show.")
    ]
    image: str | None = Field(
        None,
        description="Start from this picture: PNG, JPEG or WebP as base64 or data URL, or the id of an image of yours.",
    )
    instruction: Annotated[str, Field(max_length=MAX_PROMPT_CHARS)] | None = Field(
        None, description="With image: carried out as the edit of round 1, before any reflection."
    )
    max_rounds: Annotated[int, Field(ge=0, le=8)] | None = Field(
        None,
        description="How many reflect-refine rounds may follow the first picture; 3 unless the checkpoint says else.",
    )
    min_rounds: Annotated[int, Field(ge=0, le=8)] = Field(
        0, description="That many refinements happen even where the model is satisfied; at most max_rounds."
    )
    early_stop: Annotated[
        EarlyStopCreate, BeforeValidator(_from_bool, json_schema_input_type=bool | EarlyStopCreate)
    ] = Field(EarlyStopCreate(), description="Whether a satisfied model, or its scores, end the trajectory.")
    judge: JudgeCreate | None = Field(None, description="Have the model score every picture.")
    choose: Choose = Field("last", description="Which round's picture is the result: the last, or the best scored.")
    on_regression: OnRegression = Field(
        "keep", description="After a round that scored lower: go on from it, or go back to the best picture so far."
    )
    candidates: CandidatesCreate = CandidatesCreate()
    max_images: Annotated[int, Field(ge=1, le=MAX_IMAGES)] | None = Field(
        None, description="The most pictures that are drawn, shared evenly among the n; at least n."
    )
    think: bool = Field(True, description="Write a reasoning text before the first picture.")
    size: Annotated[str, AfterValidator(size_text), Field(json_schema_extra={"pattern": SIZE.pattern})] | None = Field(
        None, description="WIDTHxHEIGHT in pixels; /info says the checkpoint's default."
    )
    n: Annotated[int, Field(ge=1, le=4)] = Field(1, description="Independent trajectories of one prompt.")
    reason: TextSamplingCreate = TextSamplingCreate()
    reflect: TextSamplingCreate = TextSamplingCreate()
    generate: GenerateSamplingCreate = GenerateSamplingCreate()
    refine: RefineSamplingCreate = RefineSamplingCreate()
    previews: Annotated[int, Field(ge=0, le=20)] = Field(0, description="Previews per picture, evenly spaced.")
    response_format: ResponseFormat = Field("url", description="b64_json: answers hold the pictures' bytes too.")
    output_format: OutputFormat = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None, description="Quality of webp and jpeg, 100 the best; refused with png."
    )


class GenerationCreate(JobCreate, _GenerationFields):
    """One request: a prompt, and how to go about it."""


class ShareCreate(_Strict):
    """How long a read-only link is good."""

    expires_s: Annotated[float, Field(gt=0)] = Field(description="Seconds; at most as long as the job is kept.")


class _Query(BaseModel):
    """Parameters arrive as text, so they are not strict; unknown ones are refused all the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _TenantQuery(_Query):
    tenant: str | None = Field(
        None, pattern=TENANT_PATTERN, description="With scope admin: this tenant's in place of one's own."
    )


class JobsQuery(_TenantQuery):
    """Which jobs to list."""

    status: JobStatus | None = Field(None, description="Only jobs of this status.")
    limit: int = Field(20, ge=1, le=100)
    cursor: str | None = Field(None, max_length=512, description="next_cursor of the page before.")


class _SharedQuery(_TenantQuery):
    token: str | None = Field(None, description="What a link carries, in place of a key.")


class JobQuery(_SharedQuery):
    """By what right a job is read."""


class EventsQuery(_SharedQuery):
    """Where a stream begins."""

    after: int | None = Field(None, ge=0, le=2**53, description="Resume after this event; Last-Event-ID wins over it.")


class ImageQuery(_SharedQuery):
    """How an image is sent."""

    download: Literal["0", "1"] | None = Field(None, description="1: as an attachment to save.")


class ReadyQuery(_Query):
    """What being ready means."""

    workers: Literal["0", "1"] | None = Field(None, description="1: ready only while a loaded worker is heard from.")
