"""The model as its own judge: what a score is, and what a loop may make of scores. Values and arithmetic, no torch.

gvu      how likely the prompt is, said of the picture (arXiv 2603.06043): ranks pictures of one prompt
lift     the same with the prompt's own likelihood taken off (arXiv 2306.01879): compares across prompts
vqa      p(yes) against p(no) when asked whether the picture shows the prompt
verdict  how likely "No further edit needed." was where a reflection's instruction begins
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

Scorer = Literal["gvu", "lift", "vqa", "verdict"]
SCORERS: Final[tuple[Scorer, ...]] = get_args(Scorer)
# Read from the picture and the prompt alone; `verdict` comes from a reflection.
LOOKING: Final = frozenset({"gvu", "lift", "vqa"})


@dataclass(frozen=True)
class WordLift:
    """A word of the prompt, and how much likelier the picture makes it: the sum of its tokens' log ratios."""

    text: str
    lift: float


@dataclass(frozen=True)
class Score:
    """What one scorer says of a picture. `value` is None where it could not be read (`verdict` of a malformed
    reflection); `lift` and `words` are given by `gvu` and `lift`.
    """

    scorer: Scorer
    value: float | None
    lift: float | None = None
    words: tuple[WordLift, ...] = ()


@dataclass(frozen=True)
class ScoreStop:
    """Stop when a round's score is `at_least` that, or when `patience` rounds running have not risen by `min_gain`
    above the best before them.
    """

    scorer: Scorer
    at_least: float | None = None
    min_gain: float = 0.0
    patience: int = 1


@dataclass(frozen=True)
class Counts:
    """How many candidates are drawn: of the first picture, and of each refinement."""

    first: int = 1
    refine: int = 1


ONE_EACH: Final = Counts()


def value_of(scores: Sequence[Score], scorer: Scorer) -> float | None:
    """What `scorer` gave, None where it did not."""
    return next((score.value for score in scores if score.scorer == scorer), None)


def best_of(values: Sequence[float | None]) -> int:
    """The place of the greatest value, the first among equals; None ranks last."""
    return max(range(len(values)), key=lambda place: (rank(values[place]), -place))


def is_reached(rule: ScoreStop, values: Sequence[float | None]) -> bool:
    """Whether the rule fires after rounds of these scores."""
    newest = values[-1]
    if rule.at_least is not None and newest is not None and newest >= rule.at_least:
        return True
    before, late = values[: -rule.patience], values[-rule.patience :]
    return bool(before) and not _has_risen(max(map(rank, late)), max(map(rank, before)), rule.min_gain)


def has_fallen(values: Sequence[float | None], min_gain: float) -> bool:
    """Whether the newest score is lower than the best before it by more than `min_gain`."""
    return len(values) > 1 and rank(values[-1]) < max(map(rank, values[:-1])) - min_gain


def score_from_json(value: dict[str, Any]) -> Score:
    """The score whose `dataclasses.asdict` is `value`."""
    return Score(**{**value, "words": tuple(WordLift(**word) for word in value["words"])})


def _has_risen(now: float, before: float, min_gain: float) -> bool:
    return now > before and now - before >= min_gain


def rank(value: float | None) -> float:
    """A score as a number to compare; none ranks last."""
    return float("-inf") if value is None else value
