"""One measurement of a served model: what it asks for, one stage after another, and everything it found."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from training import figures
from training.controls import (
    FRESH,
    Chance,
    Shuffled,
    blank_bodies,
    chance,
    elsewhere_bodies,
    first_sight,
    fresh_bodies,
    fresh_seed,
    fresh_shares,
    shuffled,
    swaps,
)
from training.eval_set import Case, quick_cases
from training.figures import ROUNDS, Json, Share
from training.loops import Loop, loops_of
from training.served import Tell, ask
from training.spec import CATEGORIES

_TIMED_PER_CATEGORY: Final = 2
_TIMED_REFINEMENTS: Final = 2


@dataclass(frozen=True)
class Seconds:
    """Times in seconds: of all loops together, of the loops each as its client saw it, with others beside it, of jobs
    that have the machine to themselves and refine twice (shortest first), and of the whole measurement.
    """

    all_loops: float
    loops: tuple[float, ...]
    alone: tuple[float, ...]
    everything: float

    def to_json(self) -> Json:
        """Plain values."""
        return {
            "all_loops": round(self.all_loops, 1),
            "loops_a_minute": round(60 * len(self.loops) / self.all_loops, 1),
            "loop_in_company_median": round(statistics.median(self.loops), 2),
            "two_refinements_alone_median": round(statistics.median(self.alone), 2),
            "two_refinements_alone_longest": round(self.alone[-1], 2),
            "everything": round(self.everything, 1),
        }


@dataclass(frozen=True, eq=False)
class Measured:
    """The loops, and what the controls came to."""

    loops: list[Loop]
    chance: list[Chance]
    shuffled: Shuffled
    sights: dict[str, dict[str, Share]]
    seconds: Seconds

    def to_json(self) -> Json:
        """Every figure in plain values."""
        loops = self.loops
        return {
            "accuracy": {name: [s.to_json() for s in row] for name, row in figures.accuracy(loops).items()},
            "finished": [s.to_json() for s in figures.finished(loops)],
            "refinements": figures.refinements(loops).to_json(),
            "changes": [
                {name: getattr(change, name).to_json() for name in ("edited", "improved", "worse", "unchanged")}
                for change in figures.changes(loops)
            ],
            "format": _plain(figures.formats(loops)),
            "own_pictures": _plain(figures.sight(figures.reflected(loops))),
            "other_pictures": {name: _plain(sight) for name, sight in self.sights.items()},
            "first_pictures": fresh_shares(self.chance),
            "shuffled_instructions": {
                "before": self.shuffled.before.to_json(),
                "own": self.shuffled.own.to_json(),
                "of_another_prompt": self.shuffled.others.to_json(),
                "own_minus_other": self.shuffled.difference.to_json(),
            },
            "anatomy": figures.anatomy(loops),
            "seconds": self.seconds.to_json(),
        }


def measure(url: str, cases: Sequence[Case], tell: Tell) -> Measured:
    """Run everything against the server at `url`; minutes. Raises AskFailed where a job comes to nothing."""
    began = time.monotonic()
    alone = _alone(url)  # first, while nothing else runs; it warms the server up too
    tell(f"{len(cases)} loops of at most {ROUNDS} refinements")
    started = time.monotonic()
    loops = run_loops(url, cases, ROUNDS, tell)
    all_loops = time.monotonic() - started
    tell(f"{FRESH} more first pictures each")
    fresh = _looped(url, cases, fresh_bodies(cases), tell)
    asked = swaps(loops)
    tell("edits with the instructions of other prompts")
    edited = _looped(url, [swap.loop.case for swap in asked], [swap.body for swap in asked], tell)
    looks = {
        "drawn for another prompt of the same category": elsewhere_bodies(loops, same_category=True),
        "drawn for a prompt of another category": elsewhere_bodies(loops, same_category=False),
        "blank": blank_bodies(cases),
    }
    sights = {}
    for name, bodies in looks.items():
        tell(f"pictures: {name}")
        sights[name] = first_sight(_looped(url, cases, bodies, tell))
    seconds = Seconds(all_loops, tuple(loop.wall_s for loop in loops), alone, time.monotonic() - began)
    return Measured(loops, chance(loops, fresh), shuffled(asked, edited), sights, seconds)


def run_loops(url: str, cases: Sequence[Case], max_rounds: int, tell: Tell = lambda _line: None) -> list[Loop]:
    """The loops of these cases, at the served defaults but for the round limit and the case's seed."""
    bodies = [{"prompt": case.prompt, "seed": case.seed, "max_rounds": max_rounds} for case in cases]
    return _looped(url, cases, bodies, tell)


def sample(cases: Sequence[Case], limit: int | None) -> list[Case]:
    """About `limit` of the cases, as many of each category, the first ones; all where it is None."""
    if limit is None:
        return list(cases)
    each = math.ceil(limit / len(CATEGORIES))
    return [case for c in CATEGORIES for case in [case for case in cases if case.category == c][:each]]


def seeds(cases: Sequence[Case]) -> Json:
    """Which seeds draw what."""
    own, fresh = [case.seed for case in cases], [fresh_seed(case) for case in cases]
    return {
        "loops": f"{min(own)} to {max(own)}, one a prompt; its controls use it too",
        "fresh_first_pictures": f"{min(fresh)} to {max(fresh) + FRESH - 1}, {FRESH} a prompt from ten times its own on",
    }


def _looped(url: str, cases: Sequence[Case], bodies: Sequence[Json], tell: Tell) -> list[Loop]:
    """One case and one body a job."""
    return loops_of(cases, ask(url, bodies, tell=tell))


def _alone(url: str) -> tuple[float, ...]:
    cases = quick_cases(_TIMED_PER_CATEGORY)
    bodies = [
        {"prompt": c.prompt, "seed": c.seed, "max_rounds": _TIMED_REFINEMENTS, "early_stop": False} for c in cases
    ]
    ask(url, bodies[:1], concurrency=1)
    return tuple(sorted(answer.wall_s for answer in ask(url, bodies, concurrency=1)))


def _plain(shares: dict[str, Share]) -> Json:
    return {name: one.to_json() for name, one in shares.items()}
