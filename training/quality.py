"""What the quick quality test holds the small model to, and the command that measures it: `python -m training.quality`.

64 prompts are run through the public API with at most two refinements, with several seeds each. Of every figure the
mean over all runs is kept, and the standard error that one run has. A later run that falls below the mean less three of
those is no chance: something has blinded the model, or tied its hands. Most first pictures are right, so how often
wrong ones are mended is asked of loops that are known to begin wrong; these are kept beside the figures.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from training.eval_set import quick_cases
from training.evaluate import CHECKPOINT, PROJECT
from training.figures import Json
from training.loops import Loop
from training.measured import run_loops
from training.served import info, private_server

GOLDEN: Final = PROJECT / "tests" / "golden" / "small_quality.json"
REFINEMENTS: Final = 2
FIGURES: Final = ("right", "verdict", "reading", "mended")
WRONG_STARTS: Final = 40
_STANDARD_ERRORS: Final = 3
_NEXT_SEEDS: Final = 100_000


@dataclass(frozen=True)
class Bar:
    """A figure's mean, and the standard error of a single run."""

    mean: float
    standard_error: float

    @property
    def floor(self) -> float:
        """The least that a run may have."""
        return self.mean - _STANDARD_ERRORS * self.standard_error


@dataclass(frozen=True)
class WrongStart:
    """A loop whose first picture was wrong: the number of its quick case, and its seed."""

    case: int
    seed: int


def run(url: str, repeat: int = 0) -> list[Loop]:
    """The 60 loops; every repeat has seeds of its own."""
    cases = [replace(case, seed=case.seed + repeat * _NEXT_SEEDS) for case in quick_cases()]
    return run_loops(url, cases, REFINEMENTS)


def run_wrong_starts(url: str, starts: Sequence[WrongStart]) -> list[Loop]:
    """The loops that began wrong when they were measured."""
    cases = quick_cases()
    return run_loops(url, [replace(cases[start.case], seed=start.seed) for start in starts], REFINEMENTS)


def values(loops: Sequence[Loop]) -> dict[str, list[float]]:
    """One value a loop: right in the end; all its verdicts right; all its readings right."""
    asked = [[shown for shown in loop.rounds if shown.said] for loop in loops]
    return {
        "right": right_in_the_end(loops),
        "verdict": [float(all(shown.is_verdict_right for shown in rounds)) for rounds in asked],
        "reading": [float(all(shown.is_reading_right for shown in rounds)) for rounds in asked],
    }


def right_in_the_end(loops: Sequence[Loop]) -> list[float]:
    """Whether each has a right picture after the last refinement."""
    return [float(loop.at(REFINEMENTS).is_right) for loop in loops]


def wrong_starts(runs: Sequence[Sequence[Loop]]) -> list[tuple[WrongStart, Loop]]:
    """The first WRONG_STARTS loops whose first picture was wrong."""
    found = [
        (WrongStart(number, loop.case.seed), loop)
        for loops in runs
        for number, loop in enumerate(loops)
        if not loop.at(0).is_right
    ]
    return found[:WRONG_STARTS]


def bars(runs: Sequence[Sequence[Loop]]) -> dict[str, Bar]:
    """The bar of each figure, from several runs of as many loops."""
    of_all, count = values([loop for loops in runs for loop in loops]), len(runs[0])
    mended = right_in_the_end([loop for _, loop in wrong_starts(runs)])
    return {**{name: _bar(of, count) for name, of in of_all.items()}, "mended": _bar(mended, len(mended))}


def _bar(seen: Sequence[float], count: int) -> Bar:
    # A figure that never varied has varied less than once in all that was seen, which is not never.
    return Bar(float(np.mean(seen)), math.sqrt((np.var(seen) + 1 / len(seen)) / count))


@dataclass(frozen=True)
class Kept:
    """What was measured: of which checkpoint (its hash), its bars, and loops that begin wrong."""

    checkpoint: str
    bars: dict[str, Bar]
    wrong_starts: tuple[WrongStart, ...]


def stored(path: Path = GOLDEN) -> Kept:
    """What `main` wrote."""
    kept = json.loads(path.read_text())
    bars_kept = {name: Bar(**bar) for name, bar in kept["bars"].items()}
    return Kept(kept["checkpoint"], bars_kept, tuple(WrongStart(*start) for start in kept["wrong_starts"]))


def main() -> int:
    """Measure and write the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="runs of 60, each with its own seeds [5]")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="folder to measure [checkpoints/small]")
    parser.add_argument("--out", type=Path, default=GOLDEN, help="file to write [tests/golden/small_quality.json]")
    asked = parser.parse_args()
    runs = []
    with private_server(asked.checkpoint) as url:
        model = info(url)["hash"]
        for repeat in range(asked.repeats):
            runs.append(run(url, repeat))
            print(f"run {repeat + 1}: {_means(runs[-1])}", file=sys.stderr, flush=True)
    kept = {
        name: {"mean": round(b.mean, 4), "standard_error": round(b.standard_error, 4)} for name, b in bars(runs).items()
    }
    record: Json = {
        "command": "python -m training.quality",
        "checkpoint": model,
        "runs": len(runs),
        "bars": kept,
        "wrong_starts": [[start.case, start.seed] for start, _ in wrong_starts(runs)],
    }
    asked.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def _means(loops: Sequence[Loop]) -> str:
    return ", ".join(f"{name} {np.mean(of):.3f}" for name, of in values(loops).items())


if __name__ == "__main__":
    raise SystemExit(main())
