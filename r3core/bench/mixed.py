"""Many loops on one engine: eight one after another against eight at once, and loops that arrive when they like."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from r3core.bench.driving import Driven, Seen
from r3core.bench.growth import work_of
from r3core.bench.line import Line, quantile
from r3core.bench.setting import FREELY, Setting
from r3core.engine.engine import Engine
from r3core.types import Trajectory

LOOPS: Final = 8
_QUEUED: Final = 5  # loops for each that is under way
_JOBS: Final = 32
_LOAD: Final = 0.7
_SEED: Final = 8


def measure_together(setting: Setting) -> Iterator[Line]:
    """The same loops, each of which may end when it is satisfied, both ways in turn within every run: so many that
    begin together, of which ever fewer are left, and a queue of more, where another one begins when one ends.
    """
    loops = 2 if setting.quick else LOOPS
    engine = setting.engine_for(loops)
    if engine is None:
        return
    queued = 2 * loops if setting.quick else _QUEUED * loops
    asked = [setting.loop(i, early_stop=FREELY) for i in range(queued)]
    ways = {"": (asked[:loops], {"loops": loops}), "a queue, ": (asked, {"loops": queued, "batch": loops})}
    work = {way: work_of(setting, _arriving(engine, own, [0.0] * len(own), loops)) for way, (own, _) in ways.items()}
    apart: dict[str, list[float]] = {way: [] for way in ways}
    at_once: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(setting.runs):
        for way, (own, _) in ways.items():
            apart[way].append(_arriving(engine, own, [0.0] * len(own), 1).seconds)
            at_once[way].append(_arriving(engine, own, [0.0] * len(own), loops).seconds)
    for way, (_, at) in ways.items():
        floor = work[way].gflop, work[way].gbytes
        yield Line("together", f"{way}one after another", "s", tuple(apart[way]), at, *floor)
        yield Line("together", f"{way}at once", "s", tuple(at_once[way]), at, *floor)
        ratios = tuple(one / other for one, other in zip(apart[way], at_once[way], strict=True))
        yield Line("together", f"{way}one after another over at once", "times", ratios, at)


def measure_load(setting: Setting) -> Iterator[Line]:
    """Loops of one to three refinements that arrive at random, at some seven tenths of what the engine gets through.

    What it gets through is measured first, with all of them there at once. Every run has arrivals of its own. Latencies
    count from the arrival, whether there was room at once or not.
    """
    draws = np.random.default_rng(_SEED)
    jobs = 4 if setting.quick else _JOBS
    asked = [setting.loop(i, early_stop=FREELY, max_rounds=int(draws.integers(1, 4))) for i in range(jobs)]
    full = [_arriving(setting.engine, asked, [0.0] * jobs) for _ in range(2)][-1]
    most = jobs / full.seconds
    runs = []
    for _ in range(setting.runs):
        gaps_s = draws.exponential(1 / (_LOAD * most), jobs)
        runs.append(_arriving(setting.engine, asked, list(np.cumsum(gaps_s))))
    at, work = {"loops": jobs}, work_of(setting, full) * (1 / jobs)
    got = tuple(jobs / run.seconds for run in runs)
    yield Line("load", "throughput with all there at once", "jobs/s", (most,), at, work.gflop, work.gbytes)
    yield Line("load", "throughput", "jobs/s", got, at, work.gflop, work.gbytes)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        ends = tuple(quantile([s.seconds for s in run.seen], share) for run in runs)
        firsts = tuple(quantile([_first_image_s(s) for s in run.seen], share) for run in runs)
        yield Line("load", f"completion, {name}", "s", ends, at)
        yield Line("load", f"first image, {name}", "s", firsts, at)


def _arriving(
    engine: Engine, asked: Sequence[Trajectory], arrivals_s: Sequence[float], at_once: int | None = None
) -> Driven:
    """Run loops that arrive at these moments, so many at once or as many as there is room for; the others wait."""
    began_s = time.perf_counter()
    seen = {str(i): Seen(began_s + at_s) for i, at_s in enumerate(arrivals_s)}
    turns: list[float] = []
    waiting = list(range(len(asked)))
    spare = 0 if at_once is None else engine.max_trajectories - at_once
    while waiting or engine.has_work:
        while waiting and engine.room > spare and arrivals_s[waiting[0]] <= time.perf_counter() - began_s:
            engine.add(str(waiting[0]), asked[waiting.pop(0)])
        if not engine.has_work:
            time.sleep(max(0.0, arrivals_s[waiting[0]] - (time.perf_counter() - began_s)))
            continue
        for key, event in engine.step():
            seen[key].see(event)
        turns.append(time.perf_counter() - began_s)
    engine.took()
    return Driven(list(seen.values()), turns, [])


def _first_image_s(seen: Seen) -> float:
    assert seen.first_image_s is not None
    return seen.first_image_s
