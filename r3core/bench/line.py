"""One measured figure with all its runs, and how much of what the machine can do it reaches. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, Literal

Unit = Literal["s", "ms", "tokens/s", "steps/s", "pictures/s", "jobs/s", "GFLOP/s", "GB/s", "bytes", "times", "count"]
_IN_SECONDS: Final = {"s": 1.0, "ms": 1e-3}


@dataclass(frozen=True)
class Line:
    """What was measured, once for each run, in `unit`; the median is the figure.

    `part` is the section that it belongs to, `settings` what it was measured at (batch, rounds, steps, side, way ...).
    `gflop` and `gbytes` count the arithmetic, and the weights and K/V that must be read, of what one figure stands for:
    of the whole where it is a time, of one of them (one token, one step) where it is a rate. None: not counted.
    """

    part: str
    name: str
    unit: Unit
    values: tuple[float, ...]
    settings: Mapping[str, float | str] = field(default_factory=dict)
    gflop: float | None = None
    gbytes: float | None = None

    @property
    def value(self) -> float:
        """The median of the runs."""
        return median(self.values)

    @property
    def seconds(self) -> float | None:
        """What that which is counted took; None where this is neither a time nor a rate."""
        if self.unit in _IN_SECONDS:
            return self.value * _IN_SECONDS[self.unit]
        return 1 / self.value if self.unit.endswith("/s") and self.value else None


@dataclass(frozen=True)
class Ceiling:
    """What the machine reaches at its best, measured: a large matrix product and a large copy (read and written)."""

    gflop_per_s: float
    gbytes_per_s: float

    def floor_s(self, line: Line) -> float | None:
        """The least that what was counted could take on this machine; None where nothing was counted."""
        if line.gflop is None:
            return None
        return max(line.gflop / self.gflop_per_s, (line.gbytes or 0.0) / self.gbytes_per_s)

    def share(self, line: Line) -> float | None:
        """The part of the ceiling that a line reaches, 0 to 1."""
        floor_s, seconds = self.floor_s(line), line.seconds
        return floor_s / seconds if floor_s is not None and seconds else None


def quantile(values: Sequence[float], share: float) -> float:
    """The least value that so large a share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
