"""Two runs over the same prompts in numbers: the difference by prompt, with what chance alone could make of it. Pure.

The interval of the mean difference is the bootstrap's: prompts are drawn with replacement, and the 2.5 % at either end
are cut off; drawn from a fixed seed, so that it is the same every time. `p` is the sign test's, exact and two-sided:
how often a fair coin would fall at least as one-sidedly as wins and losses do. For right and wrong that is McNemar's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

RESAMPLES: Final = 2000
SAME: Final = 1e-3  # scores of one picture differ by less, for others in its batch; a tie
_CUT: Final = 0.025


@dataclass(frozen=True)
class Paired:
    """The means of two runs, and the second's less the first's; wins are the prompts where the second has more."""

    of: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    wins: int
    losses: int
    ties: int
    p: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, rounded to six places; `p`, which may be tiny, to three digits."""
        return {**{name: round(value, 6) for name, value in asdict(self).items()}, "p": float(f"{self.p:.3g}")}


def paired(first: Sequence[float], second: Sequence[float]) -> Paired | None:
    """What a run has over another, prompt by prompt in the same order; None of none."""
    if not first:
        return None
    differences = [b - a for a, b in zip(first, second, strict=True)]
    wins, losses = sum(d > SAME for d in differences), sum(d < -SAME for d in differences)
    low, high = _interval(differences)
    return Paired(
        of=len(first),
        first=_mean(first),
        second=_mean(second),
        difference=_mean(differences),
        low=low,
        high=high,
        wins=wins,
        losses=losses,
        ties=len(first) - wins - losses,
        p=sign_test(wins, losses),
    )


def sign_test(wins: int, losses: int) -> float:
    """How likely so uneven an outcome is of a fair coin."""
    tosses, fewer = wins + losses, min(wins, losses)
    # Whole numbers until the end: a float has no room for 2 to the thousandth.
    return min(1.0, 2 * sum(math.comb(tosses, k) for k in range(fewer + 1)) / (1 << tosses))


def _interval(values: Sequence[float]) -> tuple[float, float]:
    draw = random.Random(0)  # noqa: S311 -- no secret
    means = sorted(_mean(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return means[round(_CUT * RESAMPLES)], means[round((1 - _CUT) * RESAMPLES) - 1]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
