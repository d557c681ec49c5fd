"""Part "system": one loop after another through the whole system, and when what of it was at the user's end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from r3core.bench.line import Line
from server.bench.bodies import ROUNDS, one_loop
from server.bench.place import Place
from server.bench.watching import PHASES, Watched, watch

PART = "system"


def latencies(place: Place, runs: int, *, quick: bool) -> Iterator[Line]:
    """How long the phases took, and how long it was until something could be seen. Raises NotMeasured."""
    jobs = asyncio.run(_watched(place, runs, quick=quick))
    settings = {"rounds": ROUNDS, "side": place.side}
    for phase in PHASES:
        took = [phases[phase] for job in jobs if phase in (phases := job.phases())]
        if took:
            yield Line(PART, phase, "s", tuple(took), {**settings, "phase": phase})
    firsts: dict[str, list[float | None]] = {
        "time to first token": [job.first_word_s for job in jobs],
        "time to first preview": [job.first_s("image.preview") for job in jobs],
        "time to first image": [job.first_s("image") for job in jobs],
        "time to first image, fetched": [job.picture_s for job in jobs],
        "whole job": [*(job.total_s for job in jobs)],
    }
    for name, times_s in firsts.items():
        if came := tuple(time_s for time_s in times_s if time_s is not None):
            yield Line(PART, name, "s", came, settings)


async def _watched(place: Place, runs: int, *, quick: bool) -> list[Watched]:
    body = one_loop(place, quick=quick)
    async with place.http() as http:
        await watch(http, body)  # the first one pays for what is made once
        return [await watch(http, body, fetches=True) for _ in range(runs)]
