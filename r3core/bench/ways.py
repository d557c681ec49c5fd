"""The same loop in every way, from a forward for each thing to the engine with eight loops at once."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from r3core.bench.baseline import STRAIGHTFORWARD, WAYS, Baseline
from r3core.bench.counting import Work
from r3core.bench.driving import drive
from r3core.bench.growth import work_of
from r3core.bench.line import Line
from r3core.bench.setting import Setting
from r3core.engine.engine import Engine
from r3core.types import Trajectory

LOOPS: Final = 8


@dataclass(frozen=True)
class Rung:
    """A way, how many loops one run of it has, and what runs them and says what they took at the least."""

    name: str
    loops: int
    run: Callable[[], Work]


def measure_ways(setting: Setting) -> Iterator[Line]:
    """Seconds a loop in each way, and how many times as fast as the straightforward one it is, run by run.

    The ways take turns within a run, so that a ratio is one of neighbours. The eight loops ask for the same and draw
    from other noise, so that what they say of their pictures differs a little in length.
    """
    rungs = _rungs(setting)
    works = {rung.name: rung.run() for rung in rungs}
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(setting.runs):
        for rung in rungs:
            began_s = time.perf_counter()
            rung.run()
            seconds[rung.name].append((time.perf_counter() - began_s) / rung.loops)
    for rung in rungs:
        own, work = seconds[rung.name], works[rung.name]
        at: dict[str, float | str] = {"way": rung.name, "loops": rung.loops}
        yield Line("ways", "one loop", "s", tuple(own), at, work.gflop, work.gbytes)
    for rung in rungs:
        pairs = zip(seconds[STRAIGHTFORWARD.name], seconds[rung.name], strict=True)
        ratios = tuple(plain / own for plain, own in pairs)
        yield Line("ways", "speed-up", "times", ratios, {"way": rung.name, "loops": rung.loops})


def _rungs(setting: Setting) -> list[Rung]:
    rounds = 1 if setting.quick else 2
    loops = 2 if setting.quick else LOOPS
    one = setting.loop(max_rounds=rounds)
    many = [setting.loop(max_rounds=rounds, seed=one.request.seed + i) for i in range(loops)]
    rungs = [Rung(way.name, 1, partial(_plainly, setting, Baseline(setting.runtime, way), one)) for way in WAYS]
    rungs.append(Rung("engine, one loop", 1, partial(_by_engine, setting, setting.engine, [one])))
    wide = setting.engine_for(loops)
    if wide is not None:
        said = {2: "two", 8: "eight"}[loops]
        rungs.append(Rung(f"engine, {said} loops at once", loops, partial(_by_engine, setting, wide, many)))
    return rungs


def _plainly(setting: Setting, baseline: Baseline, asked: Trajectory) -> Work:
    ran = baseline.run(asked)
    return setting.count.loop(ran.trajectory, ran.texts)


def _by_engine(setting: Setting, engine: Engine, asked: list[Trajectory]) -> Work:
    return work_of(setting, drive(engine, asked)) * (1 / len(asked))
