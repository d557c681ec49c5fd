"""The values of the loop: a request, and a trajectory, which is a request and all that was made for it so far.

All of them are frozen and turn into plain JSON and back (`Trajectory.to_json`, `Trajectory.from_json`), so that a
trajectory can be stored after each round and another worker can go on from there: of what version its build is says
versions.py. No torch here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Final, Literal, Self

from r3core.judge import ONE_EACH, Counts, Score, Scorer, ScoreStop, best_of, score_from_json, value_of
from r3core.versions import REQUEST_STEPS, STORED_VERSION, TRAJECTORY_STEPS, brought_up, version_of

SEED_LIMIT: Final = 2**53

RenormType = Literal["global", "channel", "text_channel"]
StopReason = Literal["satisfied", "max_rounds", "malformed", "score", "budget", "deadline", "stopped", "done"]
Kind = Literal["generate", "score", "reflect", "describe", "roundtrip"]
Choose = Literal["last", "best"]
OnRegression = Literal["keep", "backtrack"]


@dataclass(frozen=True)
class TextSampling:
    """How a text is decoded. Temperature 0 is greedy; `top_k` 0 is off, and is ignored where `top_p` < 1 (as in the
    reference).
    """

    max_tokens: int = 196  # the reference's max_length M: at most M-1 free tokens, then a forced <|im_end|>
    temperature: float = 0.3
    top_p: float = 0.9
    top_k: int = 50


MOST_CACHED: Final = 4
"""The most that `step_cache` may be."""


@dataclass(frozen=True)
class ImageSampling:
    """How a picture is drawn: N timesteps are N-1 Euler steps of rectified flow, guided inside `cfg_interval` (lo,
    hi]. Of `step_cache` steps one is computed (1: all of them), and the velocities of the others go on from those.
    """

    num_timesteps: int = 50
    cfg_text_scale: float = 4.0
    cfg_img_scale: float = 1.0
    cfg_interval: tuple[float, float] = (0.4, 1.0)
    cfg_renorm_type: RenormType = "global"
    cfg_renorm_min: float = 0.0
    timestep_shift: float = 3.0
    step_cache: int = 1


# The evaluation settings of the reference (train/online_rl.py:978-990); a checkpoint's r3.json may say otherwise.
REASON_DEFAULTS: Final = TextSampling(max_tokens=196)
REFLECT_DEFAULTS: Final = TextSampling(max_tokens=384)
DESCRIBE_DEFAULTS: Final = TextSampling(max_tokens=384, temperature=0.0)
GENERATE_DEFAULTS: Final = ImageSampling()
REFINE_DEFAULTS: Final = ImageSampling(cfg_img_scale=1.5, cfg_renorm_type="text_channel")


@dataclass(frozen=True)
class EarlyStop:
    """Stop when the model is satisfied, `confirmations` times running for the same picture, or when the scores say so.

    Any rule that fires stops; with `all` every rule that is on must.
    """

    on_satisfied: bool = True
    confirmations: int = 1
    score: ScoreStop | None = None
    all: bool = False


@dataclass(frozen=True)
class Request:
    """Everything that was asked for, resolved: no default is left open. Sizes in pixels.

    `given_image` says that round 0 is a picture of the caller's; `instruction` is then carried out as the edit of
    round 1. With `scorers` every picture is scored, and the first of them decides wherever one is to be chosen.
    `max_images` is a budget over all trajectories. A `kind` other than "generate" is one of tasks.py.
    """

    prompt: str
    width: int
    height: int
    seed: int
    max_rounds: int = 3
    min_rounds: int = 0
    early_stop: EarlyStop = EarlyStop()
    think: bool = True
    n: int = 1
    given_image: bool = False
    instruction: str | None = None
    reason: TextSampling = REASON_DEFAULTS
    reflect: TextSampling = REFLECT_DEFAULTS
    generate: ImageSampling = GENERATE_DEFAULTS
    refine: ImageSampling = REFINE_DEFAULTS
    previews: int = 0
    scorers: tuple[Scorer, ...] = ()
    choose: Choose = "last"
    on_regression: OnRegression = "keep"
    candidates: Counts = ONE_EACH
    max_images: int | None = None
    kind: Kind = "generate"
    question: str | None = None
    describe: TextSampling = DESCRIBE_DEFAULTS


class Verdict(StrEnum):
    """What a reflection comes to."""

    EDIT = "edit"
    SATISFIED = "satisfied"
    MALFORMED = "malformed"


@dataclass(frozen=True)
class Reflection:
    """What the model said of a picture. `instruction` is None where the text is malformed (no </think>)."""

    text: str
    thought: str
    verdict: Verdict
    instruction: str | None


@dataclass(frozen=True)
class Image:
    """A finished picture by name; its pixels live in the engine, and as a lossless PNG in the image store."""

    id: str
    width: int
    height: int


@dataclass(frozen=True)
class Candidate:
    """One of several pictures of a round, the guidance-branch passes it took, and what was said of it."""

    image: Image
    scores: tuple[Score, ...] = ()
    reflections: tuple[Reflection, ...] = ()
    forwards: int = 0


@dataclass(frozen=True)
class Round:
    """A picture, the edit that made it (None for round 0 and for a given picture), and what was then said of it.

    Where several were drawn, `candidates` holds them all, and picture, scores and reflections are those of the one
    that is `chosen`, so far or for good. `base` is the round whose picture was edited.
    """

    index: int
    image: Image
    instruction: str | None = None
    reflections: tuple[Reflection, ...] = ()
    scores: tuple[Score, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    chosen: int = 0
    base: int | None = None
    forwards: int = 0

    @property
    def pictures(self) -> tuple[Candidate, ...]:
        """Every picture of the round, in the order in which they were drawn."""
        return self.candidates or (Candidate(self.image, self.scores, self.reflections, self.forwards),)

    @property
    def reflection(self) -> Reflection | None:
        """The last thing said of this picture, or None where it was not asked about."""
        return self.reflections[-1] if self.reflections else None


@dataclass(frozen=True)
class Usage:
    """What was spent. `forwards` counts guidance-branch passes over noisy latents (90 for a first image, 131 for an
    edit at R3's settings); text, context and discarded work are not in it. `images` counts the pictures that were
    drawn; those that the result was not made from, and their forwards, are counted as discarded when it is known.
    """

    text_tokens: int = 0
    denoise_steps: int = 0
    forwards: int = 0
    images: int = 0
    discarded_images: int = 0
    discarded_forwards: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Trajectory:
    """A request and all that was made for it so far: the one value the loop is a function of.

    `description` and `similarities` are what the tasks of tasks.py come to.
    """

    request: Request
    index: int = 0
    reasoning: str | None = None
    rounds: tuple[Round, ...] = ()
    stop_reason: StopReason | None = None
    usage: Usage = field(default_factory=Usage)
    description: str | None = None
    similarities: tuple[tuple[str, float], ...] | None = None

    @property
    def seed(self) -> int:
        """Trajectory i of a request draws as a request of one trajectory with seed + i would."""
        return (self.request.seed + self.index) % SEED_LIMIT

    @property
    def newest(self) -> Image | None:
        """The newest finished picture."""
        return self.rounds[-1].image if self.rounds else None

    @property
    def result(self) -> Round | None:
        """The round whose picture the trajectory comes to: the last, or the best by the first scorer."""
        if not self.rounds:
            return None
        if self.request.choose == "last" or not self.request.scorers:
            return self.rounds[-1]
        return self.rounds[best_of(self.values(self.request.scorers[0]))]

    def values(self, scorer: Scorer) -> list[float | None]:
        """What a scorer gave each round's picture."""
        return [value_of(r.scores, scorer) for r in self.rounds]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, the version of this form first."""
        return {"version": STORED_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The trajectory that this or an older build's `to_json` wrote. Raises NewerVersion for a newer build's."""
        version = version_of(value)
        own = brought_up(value, version, TRAJECTORY_STEPS)
        return cls(
            request=request_from_json(own["request"], version),
            index=own["index"],
            reasoning=own["reasoning"],
            rounds=tuple(_round(r) for r in own["rounds"]),
            stop_reason=own["stop_reason"],
            usage=Usage(**own["usage"]),
            description=own["description"],
            similarities=None if own["similarities"] is None else tuple((n, v) for n, v in own["similarities"]),
        )


def request_from_json(value: dict[str, Any], version: int) -> Request:
    """The request whose `dataclasses.asdict`, in a build of that version, is `value`; tuples may have become lists."""
    plain = brought_up(value, version, REQUEST_STEPS)
    return Request(
        **{
            **plain,
            "early_stop": _early_stop(plain["early_stop"]),
            "reason": TextSampling(**plain["reason"]),
            "reflect": TextSampling(**plain["reflect"]),
            "generate": image_sampling_from_json(plain["generate"]),
            "refine": image_sampling_from_json(plain["refine"]),
            "scorers": tuple(plain["scorers"]),
            "candidates": Counts(**plain["candidates"]),
            "describe": TextSampling(**plain["describe"]),
        }
    )


def image_sampling_from_json(value: dict[str, Any]) -> ImageSampling:
    """The settings whose `dataclasses.asdict` is `value`."""
    lo, hi = value["cfg_interval"]
    return ImageSampling(**{**value, "cfg_interval": (lo, hi)})


def _early_stop(value: dict[str, Any]) -> EarlyStop:
    rule = value["score"]
    return EarlyStop(**{**value, "score": None if rule is None else ScoreStop(**rule)})


def _round(value: dict[str, Any]) -> Round:
    said = {"reflections": _reflections(value["reflections"]), "scores": _scores(value["scores"])}
    candidates = tuple(
        Candidate(Image(**c["image"]), _scores(c["scores"]), _reflections(c["reflections"]), c["forwards"])
        for c in value["candidates"]
    )
    return Round(**{**value, **said, "image": Image(**value["image"]), "candidates": candidates})


def _reflections(values: list[dict[str, Any]]) -> tuple[Reflection, ...]:
    return tuple(Reflection(**{**r, "verdict": Verdict(r["verdict"])}) for r in values)


def _scores(values: list[dict[str, Any]]) -> tuple[Score, ...]:
    return tuple(score_from_json(value) for value in values)
