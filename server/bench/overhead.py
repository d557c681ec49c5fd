"""Part "overhead": a job's time from POST to its last event, over what the engine itself took for that very job.

The worker counts the seconds of its engine's turns for each job, which the job tells as `usage.compute_s`: the same
job under the same load. Between the two clocks lie HTTP and validation, the queue and its lease, the worker's loop
around the engine, pictures encoded and stored, events written and streamed. The client that reads them is in it, too.

What a service costs the engine itself, by taking cores and Python's lock from it, is seen only beside an engine that
has nothing around it: the same job runs there in turn, where this machine can hold both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from r3core.bench.line import Line
from server.bench.bodies import ROUNDS, one_loop
from server.bench.figures import Overhead, overhead_of
from server.bench.place import Place
from server.bench.watching import watch

if TYPE_CHECKING:
    from r3core.checkpoint import Description
    from r3core.engine.engine import Engine

PART = "overhead"
_JOBS_A_RUN: Final = 3
_REST_S: Final = 0.3  # until the threads of the one have stopped looking for work


@dataclass(frozen=True)
class Beside:
    """An engine of our own with the same model, and what it serves."""

    engine: Engine
    description: Description


@dataclass(frozen=True)
class _Pair:
    served: Overhead
    alone_s: float | None


def overheads(place: Place, runs: int, beside: Beside | None, *, quick: bool) -> Iterator[Line]:
    """Job by job. Raises NotMeasured."""
    pairs = asyncio.run(_pairs(place, runs if quick else runs * _JOBS_A_RUN, beside, quick=quick))
    yield from _lines([pair.served for pair in pairs], place)
    if alone := [(pair.served, pair.alone_s) for pair in pairs if pair.alone_s is not None]:
        settings = {"rounds": ROUNDS, "side": place.side}
        yield Line(PART, "the same job in an engine alone", "s", tuple(alone_s for _, alone_s in alone), settings)
        ratios = tuple(served.engine_s / alone_s for served, alone_s in alone)
        yield Line(PART, "the engine in its service, of the engine alone", "times", ratios, settings)
        more_ms = tuple(1000 * (served.total_s - alone_s) for served, alone_s in alone)
        yield Line(PART, "POST to the last event, over the engine alone", "ms", more_ms, settings)


async def _pairs(place: Place, count: int, beside: Beside | None, *, quick: bool) -> list[_Pair]:
    pairs = []
    async with place.http() as http:
        first = one_loop(place, quick=quick)
        _alone_s(beside, first, (await watch(http, first)).usage)  # neither counts: what is made once is made now
        for number in range(count):
            body = one_loop(place, number, quick=quick)
            job = await watch(http, body)
            pairs.append(_Pair(overhead_of(job), _alone_s(beside, body, job.usage)))
    return pairs


def _alone_s(beside: Beside | None, body: Mapping[str, Any], usage: Mapping[str, float]) -> float | None:
    if beside is None:
        return None
    from server.bench.alone import is_same_work, seconds_alone

    time.sleep(_REST_S)
    seconds, trajectory = seconds_alone(beside.engine, beside.description, body)
    time.sleep(_REST_S)
    return seconds if is_same_work(usage, trajectory) else None


def _lines(jobs: Sequence[Overhead], place: Place) -> Iterator[Line]:
    settings = {"rounds": ROUNDS, "side": place.side}
    yield Line(PART, "POST to the last event", "s", tuple(job.total_s for job in jobs), settings)
    yield Line(PART, "the engine's turns of it", "s", tuple(job.engine_s for job in jobs), settings)
    yield Line(PART, "overhead", "ms", tuple(1000 * job.overhead_s for job in jobs), settings)
    yield Line(PART, "overhead, of what is allowed", "times", tuple(job.of_allowed for job in jobs), settings)
    parts = {
        "of it until a worker has the job": [job.until_taken_s for job in jobs],
        "of it between the engine's turns": [job.between_s for job in jobs],
        "of it from the trajectory's end to the last event": [job.told_s for job in jobs],
    }
    if place.is_ours:  # by the clock of this machine
        for name, times_s in parts.items():
            yield Line(PART, name, "ms", tuple(1000 * time_s for time_s in times_s), settings)
