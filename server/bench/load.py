"""Part "system load": requests that come at random, with 1, 2 or 3 edits at the most, through the whole system.

First as many jobs as the worker takes at a time are kept under way, which says what the system can do; then requests
come at random, seeded, at seven tenths of that, from other moments in every run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from r3core.bench.line import Line, quantile
from server.bench.bodies import gaps_s, mixed
from server.bench.place import Place
from server.bench.watching import Watched, watch

PART = "system load"
OFFERED: Final = 0.7
_JOBS: Final = 24
_QUICK_JOBS: Final = 3

Body = Mapping[str, Any]


def mixed_load(place: Place, runs: int, at_once: int, *, quick: bool) -> Iterator[Line]:
    """What can be done, and how long requests take at seven tenths of it. Raises NotMeasured."""
    bodies = list(mixed(place, _QUICK_JOBS if quick else _JOBS, quick=quick))
    most_per_s = asyncio.run(_closed(place, bodies, at_once))
    offered_per_s = OFFERED * most_per_s
    came = [asyncio.run(_open(place, bodies, gaps_s(len(bodies), offered_per_s, run))) for run in range(runs)]
    settings = {"side": place.side, "jobs": len(bodies)}
    yield Line(PART, "throughput, always so many under way", "jobs/s", (most_per_s,), {**settings, "loops": at_once})
    yield Line(PART, "offered", "jobs/s", (offered_per_s,), settings)
    yield Line(PART, "throughput", "jobs/s", tuple(per_s for _, per_s in came), settings)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        ends = tuple(quantile([job.total_s for job in jobs], share) for jobs, _ in came)
        firsts = tuple(quantile([job.first_picture_s for job in jobs], share) for jobs, _ in came)
        yield Line(PART, f"completion, {name}", "s", ends, settings)
        yield Line(PART, f"first image, {name}", "s", firsts, settings)


async def _closed(place: Place, bodies: Sequence[Body], at_once: int) -> float:
    """Jobs done a second with so many under way, the emptying at the end included."""
    async with place.http() as http:
        await watch(http, bodies[0])
        waiting = iter(bodies)

        async def keep_one_under_way() -> None:
            for body in waiting:
                await watch(http, body)

        began_s = time.perf_counter()
        async with _together() as group:
            for _ in range(at_once):
                group.create_task(keep_one_under_way())
        return len(bodies) / (time.perf_counter() - began_s)


async def _open(place: Place, bodies: Sequence[Body], gaps: Iterator[float]) -> tuple[list[Watched], float]:
    """The jobs, and how many were done a second from the first request to the last end."""
    async with place.http() as http:
        tasks = []
        async with _together() as group:
            for body, gap_s in zip(bodies, gaps, strict=True):
                await asyncio.sleep(gap_s)
                tasks.append(group.create_task(watch(http, body)))
    jobs = [task.result() for task in tasks]
    return jobs, len(jobs) / (max(job.sent_at_s + job.total_s for job in jobs) - jobs[0].sent_at_s)


@asynccontextmanager
async def _together() -> AsyncIterator[asyncio.TaskGroup]:
    """A group of tasks, of which the first that fails says why."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as several:
        raise several.exceptions[0] from None
