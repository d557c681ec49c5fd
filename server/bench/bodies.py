"""What is asked of the server under measurement: bodies of POST /generate, the same ones at every run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Final

from server.bench.place import Place

Json = dict[str, Any]
ROUNDS: Final = 1
PREVIEWS: Final = 4  # as the page asks for
MIXED_ROUNDS: Final = (1, 2, 3)
_SEED: Final = 8
_QUICK_TIMESTEPS: Final = 4


def one_loop(place: Place, number: int = 0, *, quick: bool) -> Json:
    """A plan, a picture, a reflection and an edit, whatever the model is satisfied with."""
    rounds = {"max_rounds": ROUNDS, "min_rounds": ROUNDS}
    return {**_any(place, number, quick=quick), **rounds, "seed": _SEED}


def mixed(place: Place, count: int, *, quick: bool) -> Iterator[Json]:
    """Loops with up to 1, 2 or 3 edits, which end early where the model is satisfied; as many requests, seeded."""
    chance = random.Random(_SEED)  # noqa: S311 -- the same whenever it is measured
    for number in range(count):
        rounds = {"max_rounds": chance.choice(MIXED_ROUNDS)}
        yield {**_any(place, number, quick=quick), **rounds, "seed": chance.randrange(2**31)}


def gaps_s(count: int, per_s: float, run: int) -> Iterator[float]:
    """Times between requests that come at random, so many a second; seeded, and others in every run."""
    chance = random.Random(_SEED + 1 + run)  # noqa: S311 -- the same whenever it is measured
    return (chance.expovariate(per_s) for _ in range(count))


def _any(place: Place, number: int, *, quick: bool) -> Json:
    few = {"num_timesteps": _QUICK_TIMESTEPS}
    short: Json = {"generate": few, "refine": few} if quick else {}
    return {"prompt": place.prompts[number % len(place.prompts)], "previews": PREVIEWS, **short}
