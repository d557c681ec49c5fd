"""What loops come to in numbers. Pure: loops in, shares with their intervals out.

A loop that has stopped keeps its last picture for the later rounds. Right is exact: what was asked and nothing else.
Every share has its 95 % Wilson interval; means and differences have one from 2,000 resamples of the prompts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from training.loops import Loop, Shown, is_nearer, target_of
from training.spec import CATEGORIES
from training.world import layout

Json = dict[str, Any]
ROUNDS: Final = 4
_Z: Final = 1.959964
_RESAMPLES: Final = 2000


@dataclass(frozen=True)
class Share:
    """So many of so many."""

    hits: int
    of: int

    @property
    def value(self) -> float:
        """From 0 to 1; 0 of none is 0."""
        return self.hits / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, 95 %; of none it is everything."""
        if not self.of:
            return 0.0, 1.0
        p, n = self.value, self.of
        middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    def to_json(self) -> Json:
        """Plain values."""
        low, high = self.interval
        return {"share": round(self.value, 4), "low": round(low, 4), "high": round(high, 4), "of": self.of}


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> Json:
        """Plain values."""
        return {"mean": round(self.value, 4), "low": round(self.low, 4), "high": round(self.high, 4)}


def share(of: Iterable[bool]) -> Share:
    """How many of these hold."""
    values = list(of)
    return Share(sum(values), len(values))


def mean(of: Iterable[float]) -> Mean:
    """Their mean, with a bootstrap interval that is the same at every run; zeros of none."""
    values = np.array(list(of), dtype=np.float64)
    if not len(values):
        return Mean(0.0, 0.0, 0.0)
    drawn = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(1), (2.5, 97.5))
    return Mean(float(values.mean()), float(low), float(high))


def accuracy(loops: Sequence[Loop]) -> dict[str, list[Share]]:
    """How many have the right picture after each round, over all and by category."""
    groups: dict[str, list[Loop]] = {"all": list(loops)}
    groups |= {category: [loop for loop in loops if loop.case.category == category] for category in CATEGORIES}
    return {
        name: [share(loop.at(index).is_right for loop in group) for index in range(ROUNDS + 1)]
        for name, group in groups.items()
        if group
    }


def finished(loops: Sequence[Loop]) -> list[Share]:
    """How many the model has ended, satisfied, by the reflection of each round (the last round has none)."""
    return [share(loop.is_finished and len(loop.rounds) - 1 <= index for loop in loops) for index in range(ROUNDS)]


def refinements(loops: Sequence[Loop]) -> Mean:
    """How many edits a loop takes."""
    return mean(len(loop.rounds) - 1 for loop in loops)


@dataclass(frozen=True)
class Change:
    """What a round did to all loops; those that had stopped are unchanged."""

    edited: Share
    improved: Share
    worse: Share
    unchanged: Share


def changes(loops: Sequence[Loop]) -> list[Change]:
    """From wrong to right, and from right to wrong, by each round from the first refinement on."""
    found = []
    for index in range(1, ROUNDS + 1):
        turned = [(loop.at(index - 1).is_right, loop.at(index).is_right) for loop in loops]
        found.append(
            Change(
                share(len(loop.rounds) > index for loop in loops),
                share(after and not before for before, after in turned),
                share(before and not after for before, after in turned),
                share(before == after for before, after in turned),
            )
        )
    return found


def reflected(loops: Iterable[Loop]) -> list[Shown]:
    """Every picture that the model was asked about."""
    return [shown for loop in loops for shown in loop.rounds if shown.said is not None]


def sight(shown: Sequence[Shown]) -> dict[str, Share]:
    """How well the model knows what it is shown."""
    return {
        "verdict": share(one.is_verdict_right for one in shown),
        "verdict of a right picture": share(one.is_verdict_right for one in shown if one.is_right),
        "verdict of a wrong picture": share(one.is_verdict_right for one in shown if not one.is_right),
        "reading": share(one.is_reading_right for one in shown),
    }


def formats(loops: Sequence[Loop]) -> dict[str, Share]:
    """How many texts have R3's form."""
    return {
        "plan": share(loop.is_plan_in_format for loop in loops),
        "reflection": share(shown.is_in_format for shown in reflected(loops)),
    }


def anatomy(loops: Sequence[Loop]) -> dict[str, int]:
    """Where it goes wrong: every picture that was reflected on, by what came of it."""
    outcomes = Counter(_outcome(loop, i) for loop in loops for i, shown in enumerate(loop.rounds) if shown.said)
    return dict(sorted(outcomes.items()))


def _outcome(loop: Loop, index: int) -> str:
    shown = loop.rounds[index]
    read = "reading right" if shown.is_reading_right else "reading wrong"
    if index == len(loop.rounds) - 1:
        return f"{'right' if shown.is_right else 'wrong'} picture: let be, {read}"
    if shown.is_right:
        return f"right picture: edited, {read}"
    if not shown.is_reading_right:
        return "wrong picture: edited, reading wrong"
    target = target_of(shown)
    if target is None or not is_nearer(loop.case.spec, target, shown.scene):
        return "wrong picture: edited, reading right, instruction of no use"
    done = "carried out" if layout(loop.rounds[index + 1].scene) == layout(target) else "not carried out"
    return f"wrong picture: edited, instruction right, {done}"
