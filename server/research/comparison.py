"""Two runs of the same prompts, side by side: by round, by tag, and prompt by prompt. Pure.

A round is what every loop had come to by then (delivered.py), so each is over the same prompts. Prompts count once,
however many tries they have: a prompt's value is the mean of them. The second run is held against the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from r3client.models import Scorer
from server.research.paired import SAME, Paired, paired
from server.research.runs import Run, same_prompts
from server.research.truth import Truth

Json = dict[str, Any]
What = Literal["accuracy"] | Scorer


@dataclass(frozen=True)
class Side:
    """A run, and what is known of right and wrong in it."""

    run: Run
    truth: Truth

    def value(self, number: int, what: What, round_: int) -> float | None:
        """The share of a prompt's pictures that are right, or what they were given; None where it is not known."""
        entry = self.run.entries[number]
        return self.truth.share(entry, round_) if what == "accuracy" else entry.score(what, round_)


@dataclass(frozen=True)
class Difference:
    """A prompt that the two runs do not do equally well."""

    number: int
    first: float
    second: float

    @property
    def gain(self) -> float:
        """What the second has over the first."""
        return self.second - self.first


@dataclass(frozen=True)
class Comparison:
    """Two runs of the same prompts. `by` is what wins and losses go by: "accuracy", else a scorer; None for neither."""

    first: Side
    second: Side
    numbers: Sequence[int]

    @classmethod
    def of(cls, first: Side, second: Side) -> Comparison:
        """Raises Misconfigured where they are not runs of the same prompts."""
        return cls(first, second, same_prompts(first.run, second.run))

    @property
    def last(self) -> int:
        """The last round of either."""
        return max(self.first.run.most_rounds, self.second.run.most_rounds)

    @cached_property
    def scorers(self) -> list[Scorer]:
        """Those that both runs have."""
        return [scorer for scorer in self.first.run.scorers if scorer in self.second.run.scorers]

    @property
    def by(self) -> What | None:
        """What wins and losses go by."""
        if self.first.truth and self.second.truth:
            return "accuracy"
        return self.scorers[0] if self.scorers else None

    @cached_property
    def differences(self) -> list[Difference]:
        """Every prompt that is won or lost in the last round, the largest differences first."""
        if self.by is None:
            return []
        found = [Difference(n, a, b) for n, a, b in self._pairs(self.by, self.last, self.numbers) if abs(b - a) > SAME]
        return sorted(found, key=lambda one: (-abs(one.gain), one.number))

    def measured(self, what: What, round_: int, numbers: Iterable[int] | None = None) -> Paired | None:
        """Accuracy or a score in a round, over those prompts of which both are known."""
        pairs = self._pairs(what, round_, self.numbers if numbers is None else numbers)
        return paired([a for _, a, _ in pairs], [b for _, _, b in pairs])

    def tags(self) -> dict[str, list[int]]:
        """The prompts by tag, in the order in which tags first appear."""
        by_tag: dict[str, list[int]] = {}
        for number in self.numbers:
            if (tag := self.first.run.entries[number].tag) is not None:
                by_tag.setdefault(tag, []).append(number)
        return by_tag

    def _pairs(self, what: What, round_: int, numbers: Iterable[int]) -> list[tuple[int, float, float]]:
        pairs = ((n, self.first.value(n, what, round_), self.second.value(n, what, round_)) for n in numbers)
        return [(n, a, b) for n, a, b in pairs if a is not None and b is not None]


def to_json(comparison: Comparison) -> Json:
    """All of it, for machines."""
    known: list[What] = [*comparison.scorers]
    if comparison.by == "accuracy":
        known.insert(0, "accuracy")
    return {
        "runs": [_about(side, comparison.numbers, comparison.last) for side in (comparison.first, comparison.second)],
        "prompts": {
            "both": len(comparison.numbers),
            "only_first": _only(comparison.first.run, comparison.second.run),
            "only_second": _only(comparison.second.run, comparison.first.run),
        },
        "rounds": [
            {"round": round_, **{what: _plain(comparison.measured(what, round_)) for what in known}}
            for round_ in range(comparison.last + 1)
        ],
        "truth": [bool(comparison.first.truth), bool(comparison.second.truth)],
        "by": comparison.by,
        "tags": {
            tag: _plain(comparison.measured(comparison.by, comparison.last, numbers))
            for tag, numbers in comparison.tags().items()
            if comparison.by is not None
        },
        "differences": [_told(comparison, one) for one in comparison.differences],
    }


def _about(side: Side, numbers: Sequence[int], last: int) -> Json:
    run = side.run
    entries = [run.entries[number] for number in numbers]
    loops = sum(len(entry.job.trajectories) for entry in entries)
    discarded = [entry.job.usage.discarded_images for entry in entries]
    told = [count for count in discarded if count is not None]
    stops = Counter(trajectory.stop_reason or "none" for entry in entries for trajectory in entry.job.trajectories)
    return {
        "path": str(run.path),
        "model": run.about.get("model"),
        "settings": run.about.get("settings"),
        "finished": len(run.entries),
        "failed": list(run.failed),
        "loops": loops,
        "stops": dict(stops.most_common()),
        "pictures": sum(entry.drawn(last) for entry in entries),
        "pictures_a_loop": [
            round(sum(entry.drawn(round_) for entry in entries) / max(1, loops), 4) for round_ in range(last + 1)
        ],
        "pictures_discarded": sum(told) if len(told) == len(discarded) else None,
        "compute_s": round(sum(entry.job.usage.compute_s for entry in entries), 3),
    }


def _only(one: Run, other: Run) -> list[str]:
    return [one.entries[number].name for number in sorted(set(one.entries) - set(other.entries))]


def _plain(result: Paired | None) -> Json | None:
    return None if result is None else result.to_json()


def _told(comparison: Comparison, one: Difference) -> Json:
    entry = comparison.first.run.entries[one.number]
    told = {"prompt": entry.prompt, "tag": entry.tag, "first": one.first, "second": one.second}
    return {"index": one.number, "wins": "second" if one.gain > 0 else "first", **told}
