"""Two runs of `r3 bench` held against each other: before the work on speed and after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from r3core.bench.line import Line
from r3core.bench.results import Results

Key = tuple[str, str, str, tuple[tuple[str, int | str], ...]]


@dataclass(frozen=True)
class Pair:
    """The same figure of both runs; one of them may lack it."""

    before: Line | None
    after: Line | None

    @property
    def any(self) -> Line:
        """Whichever there is, the later one first."""
        line = self.after or self.before
        assert line is not None
        return line

    @property
    def gain(self) -> float | None:
        """How many times as fast it has become; None where it is no speed, or one of the two is missing."""
        if self.before is None or self.after is None or self.any.part == "ceiling":
            return None
        before_s, after_s = self.before.seconds, self.after.seconds
        return before_s / after_s if before_s and after_s else None


def pairs(before: Results | None, after: Results | None, part: str) -> Iterator[Pair]:
    """The figures of a part, in the order of the later run; what only the earlier one has comes last."""
    old = {key_of(line): line for line in before.of_part(part)} if before else {}
    new = {key_of(line): line for line in after.of_part(part)} if after else {}
    for key in [*new, *(key for key in old if key not in new)]:
        yield Pair(old.get(key), new.get(key))


def key_of(line: Line) -> Key:
    """What makes a figure the same one in two runs. A fraction among its settings came of the run: how many rounds on
    the average it took.
    """
    settings = tuple(sorted((key, value) for key, value in line.settings.items() if not isinstance(value, float)))
    return line.part, line.name, line.unit, settings


def found(run: Results, part: str, name: str, **settings: float | str) -> Line | None:
    """The line of that name that was measured at these settings, whatever else it was measured at."""
    for line in run.of_part(part):
        if line.name == name and all(line.settings.get(key) == value for key, value in settings.items()):
            return line
    return None
