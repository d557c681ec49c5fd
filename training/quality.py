"""What the quick quality test holds the small model to, and the command that measures it: `python -m training.quality`.

60 prompts are run through the public API with at most two refinements, with several seeds each. Of every figure the
mean over all runs is kept, and the standard error that one run of 60 has. A later run that falls below the mean less
three of those is no chance: something has blinded the model, or tied its hands.
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
FIGURES: Final = ("right", "gain", "verdict", "reading")
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


def run(url: str, repeat: int = 0) -> list[Loop]:
    """The 60 loops; every repeat has seeds of its own."""
    cases = [replace(case, seed=case.seed + repeat * _NEXT_SEEDS) for case in quick_cases()]
    return run_loops(url, cases, REFINEMENTS)


def values(loops: Sequence[Loop]) -> dict[str, list[float]]:
    """One value a loop: right in the end; how much better than at first; all verdicts right; all readings right."""
    asked = [[shown for shown in loop.rounds if shown.said] for loop in loops]
    return {
        "right": [float(loop.at(REFINEMENTS).is_right) for loop in loops],
        "gain": [float(loop.at(REFINEMENTS).is_right) - float(loop.at(0).is_right) for loop in loops],
        "verdict": [float(all(shown.is_verdict_right for shown in rounds)) for rounds in asked],
        "reading": [float(all(shown.is_reading_right for shown in rounds)) for rounds in asked],
    }


def bars(runs: Sequence[Sequence[Loop]]) -> dict[str, Bar]:
    """The bar of each figure, from several runs of as many loops."""
    of_all, count = values([loop for loops in runs for loop in loops]), len(runs[0])
    # A figure that never varied has varied less than once in all that was seen, which is not never.
    return {name: Bar(float(np.mean(of)), math.sqrt((np.var(of) + 1 / len(of)) / count)) for name, of in of_all.items()}


def stored(path: Path = GOLDEN) -> tuple[str, dict[str, Bar]]:
    """The checkpoint's hash and the bars that were measured for it."""
    kept = json.loads(path.read_text())
    return kept["checkpoint"], {name: Bar(**bar) for name, bar in kept["bars"].items()}


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
    record: Json = {"command": "python -m training.quality", "checkpoint": model, "runs": len(runs), "bars": kept}
    asked.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def _means(loops: Sequence[Loop]) -> str:
    return ", ".join(f"{name} {np.mean(of):.3f}" for name, of in values(loops).items())


if __name__ == "__main__":
    raise SystemExit(main())
