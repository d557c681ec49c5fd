"""The engine alone, measured: no queue, no HTTP, one thread.

    ceiling, lines = measure_ceiling(runtime)
    for part in PARTS:
        for line in measure(runtime, part, runs=5, quick=False, say=print):
            ...

Every figure is of runs after one that is not counted. A line's arithmetic is what its phase takes at the least, so that
its share of the ceiling is that of useful work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from r3core.bench.ceiling import measure_ceiling
from r3core.bench.choosing import measure_choosing
from r3core.bench.growth import measure_growth
from r3core.bench.line import Line
from r3core.bench.memory import measure_memory
from r3core.bench.mixed import measure_load, measure_together
from r3core.bench.phases import measure_phases
from r3core.bench.rates import measure_decode, measure_denoise
from r3core.bench.scoring import measure_scoring
from r3core.bench.setting import Setting
from r3core.bench.ways import measure_ways
from r3core.runtime import Runtime

__all__ = ["PARTS", "measure", "measure_ceiling"]

_MEASURES: Final[Mapping[str, Callable[[Setting], Iterator[Line]]]] = {
    "phases": measure_phases,
    "decode": measure_decode,
    "choosing": measure_choosing,
    "denoise": measure_denoise,
    "growth": measure_growth,
    "ways": measure_ways,
    "together": measure_together,
    "load": measure_load,
    "memory": measure_memory,
    "scoring": measure_scoring,
}
PARTS: Final[tuple[str, ...]] = tuple(_MEASURES)


def measure(runtime: Runtime, part: str, *, runs: int, quick: bool, say: Callable[[str], None]) -> Iterator[Line]:
    """The lines of one part as they are there. `say` is told what was left out. Raises KeyError for an unknown part."""
    return _MEASURES[part](Setting(runtime, runs=runs, quick=quick, say=say))
