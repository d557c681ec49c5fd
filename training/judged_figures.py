"""What scores are worth, in numbers. Pure: trajectories in, shares, areas and differences out.

AUC is the chance that a right picture has a higher score than a wrong one; equal ones count half, and no score ranks
last. Differences are paired: the same prompts, resampled together. At equal cost means: against text stopping with the
round limits that cost a little less and a little more, mixed so that they draw as many pictures on the average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from r3core.judge import best_of as first_best
from r3core.judge import rank
from training.figures import Json, Mean, Share, share
from training.judged_runs import ROUNDS, Picture, Round, Told

_RESAMPLES: Final = 2000
_SEED: Final = 7
_TRIED: Final = 200
Stops = Callable[[Sequence[Round]], bool]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a strategy came to with each prompt: right or not, and the pictures that it drew."""

    name: str
    right: Floats
    images: Floats

    @property
    def accuracy(self) -> Share:
        """The share of right results."""
        return share(bool(r) for r in self.right)

    @property
    def cost(self) -> float:
        """Pictures a prompt."""
        return float(self.images.mean())


def auc(right: Sequence[float | None], wrong: Sequence[float | None]) -> float | None:
    """See above; None without both kinds."""
    if not right or not wrong:
        return None
    r, w = (np.array([rank(value) for value in values]) for values in (right, wrong))
    return float(((r[:, None] > w).mean() + (r[:, None] >= w).mean()) / 2)


def areas(pictures: Sequence[Picture], scorer: str) -> float | None:
    """The AUC over pictures of any prompts."""
    right = [p.scores[scorer] for p in pictures if p.is_right]
    wrong = [p.scores[scorer] for p in pictures if not p.is_right]
    return auc(right, wrong)


def area_within(told: Sequence[Told], scorer: str) -> tuple[float, int]:
    """The mean AUC among the pictures of one prompt, over the prompts that have both kinds, and how many they are."""
    found = [areas([p for r in one.rounds for p in r.pictures], scorer) for one in told]
    both = [value for value in found if value is not None]
    return float(np.mean(both)) if both else 0.0, len(both)


def text(rounds: Sequence[Round]) -> bool:
    """Whether the model said that nothing is left to do."""
    return rounds[-1].picture.said != "edit"


def reached(scorer: str, at_least: float) -> Stops:
    """Whether the newest picture has that score."""

    def fires(rounds: Sequence[Round]) -> bool:
        value = rounds[-1].picture.scores[scorer]
        return value is not None and value >= at_least

    return fires


def both(one: Stops, other: Stops) -> Stops:
    """Either of two rules."""
    return lambda rounds: one(rounds) or other(rounds)


def all_of(one: Stops, other: Stops) -> Stops:
    """Both of two rules."""
    return lambda rounds: one(rounds) and other(rounds)


def stopped(name: str, told: Sequence[Told], stops: Stops, limit: int = ROUNDS, best: str | None = None) -> Outcome:
    """What a rule would have made of loops that nothing stopped; with `best` the result is the best by that scorer."""
    right, images = [], []
    for one in told:
        end = next((k for k in range(limit) if stops(one.rounds[: k + 1])), limit)
        rounds = one.rounds[: end + 1]
        chosen = rounds[-1] if best is None else rounds[first_best([r.picture.scores[best] for r in rounds])]
        right.append(float(chosen.picture.is_right))
        images.append(len(rounds))
    return Outcome(name, np.array(right), np.array(images, dtype=np.float64))


def best_of(name: str, told: Sequence[Told], scorer: str, n: int) -> Outcome:
    """What choosing among the first n of several first pictures would have come to."""
    right = []
    for one in told:
        pictures = one.rounds[0].pictures[:n]
        right.append(float(pictures[first_best([p.scores[scorer] for p in pictures])].is_right))
    return Outcome(name, np.array(right), np.full(len(told), float(n)))


def as_run(name: str, told: Sequence[Told]) -> Outcome:
    """What a strategy came to that was run as it is."""
    return Outcome(
        name, np.array([float(one.is_right) for one in told]), np.array([one.images for one in told], dtype=np.float64)
    )


def text_stopping(told: Sequence[Told]) -> list[Outcome]:
    """Text stopping with every round limit from 0 on: the line that all else is held against."""
    return [stopped(f"text stop, at most {limit} edits", told, text, limit) for limit in range(ROUNDS + 1)]


def against(line: Sequence[Outcome], other: Outcome) -> Mean | None:
    """How much more often it is right than text stopping at the same cost, paired; None where it costs more than any
    round limit measured.
    """
    costs = [one.cost for one in line]
    if other.cost > costs[-1] + 1e-9:
        return None
    above = next(i for i, cost in enumerate(costs) if cost >= other.cost - 1e-9)
    below = max(0, above - 1)
    gap = costs[above] - costs[below]
    part = (other.cost - costs[below]) / gap if gap > 0 else 1.0
    same = line[below].right * (1 - part) + line[above].right * part
    return paired(other.right - same)


def paired(differences: Floats) -> Mean:
    """A mean difference over prompts with its 95 % interval, from resamples of the prompts."""
    rng = np.random.default_rng(_SEED)
    picks = rng.integers(0, len(differences), (_RESAMPLES, len(differences)))
    low, high = np.quantile(differences[picks].mean(axis=1), [0.025, 0.975])
    return Mean(float(differences.mean()), float(low), float(high))


def threshold(told: Sequence[Told], scorer: str) -> float:
    """The score at which a rule does best on these loops: right as often as can be, and of those the cheapest.

    Tried between neighbours among the scores, to four digits.
    """
    scores = (p.scores[scorer] for one in told for r in one.rounds for p in r.pictures)
    values = sorted({value for value in scores if value is not None})
    middles = [(low + high) / 2 for low, high in pairwise(values)] or values
    tried = {float(f"{middles[round(q * (len(middles) - 1))]:.4g}") for q in np.linspace(0, 1, _TRIED)}
    outcomes = [(stopped("", told, reached(scorer, at)), at) for at in sorted(tried)]
    return max(outcomes, key=lambda pair: (round(pair[0].right.mean(), 3), -pair[0].cost))[1]


def to_json(outcome: Outcome, line: Sequence[Outcome]) -> Json:
    """Plain values."""
    more = against(line, outcome)
    return {
        "name": outcome.name,
        "right": outcome.accuracy.to_json(),
        "images": round(outcome.cost, 3),
        "against_text_at_equal_cost": None if more is None else more.to_json(),
    }
