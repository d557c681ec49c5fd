"""What was promised of speed on a CPU, and whether it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.speed.pairs import found
from benchmarks.speed.tables import NOTHING, markdown
from r3core.bench.line import Line
from r3core.bench.results import Results
from server.bench.figures import ALLOWED_S, ALLOWED_SHARE
from server.bench.shown import number

LOOP_TIMES: Final = 2.0
EIGHT_TIMES: Final = 2.5


@dataclass(frozen=True)
class Promise:
    """What was promised, and the figure; None where nothing was measured that says it."""

    words: str
    limit: float
    figure: float | None
    is_at_most: bool = False

    @property
    def is_kept(self) -> bool | None:
        """Whether the figure is within the limit."""
        if self.figure is None:
            return None
        return self.figure <= self.limit if self.is_at_most else self.figure >= self.limit

    @property
    def wanted(self) -> str:
        """The limit in words."""
        return f"at {'most' if self.is_at_most else 'least'} {number(self.limit)}×"

    @property
    def shown(self) -> str:
        """The figure in words."""
        return "—" if self.figure is None else f"{number(self.figure)}×"

    @property
    def told(self) -> str:
        """Whether it is kept, in a word."""
        return {None: "not measured", True: "kept", False: "**missed**"}[self.is_kept]


def promises(run: Results) -> list[Promise]:
    """Those of a CPU."""
    allowed = f"{1000 * ALLOWED_S:.0f} ms or {ALLOWED_SHARE:.0%} of the engine's time".replace("%", " %")
    loop, every = (_value(found(run, "ways", "speed-up", way=way)) for way in ("engine, one loop", "every branch"))
    return [
        Promise("a whole loop, against the straightforward way", LOOP_TIMES, loop),
        Promise(
            "a whole loop, against the straightforward way with every branch",
            LOOP_TIMES,
            loop / every if loop and every else None,
        ),
        Promise(
            "eight loops that begin together, against one after another",
            EIGHT_TIMES,
            _value(found(run, "together", "one after another over at once", loops=8)),
        ),
        Promise(
            "eight loops at a time, another when one ends, against one after another",
            EIGHT_TIMES,
            _value(found(run, "together", "a queue, one after another over at once", batch=8)),
        ),
        Promise(
            f"overhead of a job, of {allowed}, whichever is more",
            1.0,
            _value(found(run, "overhead", "overhead, of what is allowed")),
            is_at_most=True,
        ),
    ]


def table(before: Results | None, after: Results | None) -> str:
    """What was promised of a CPU, before and after."""
    if after is None:
        return NOTHING
    old = promises(before) if before else []
    rows = []
    for number_, one in enumerate(promises(after)):
        earlier = old[number_].shown if old else "—"
        rows.append([one.words, one.wanted, earlier, one.shown, one.told])
    return markdown(["", "promised", "before", "after", ""], rows)


def _value(line: Line | None) -> float | None:
    return None if line is None else line.value
