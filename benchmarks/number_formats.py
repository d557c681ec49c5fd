"""What bfloat16 gains and costs on a CPU, with checkpoints/small: a part of docs/performance.md from one run.

    python -m benchmarks.number_formats             measure, then write JSON and table; two minutes
    python -m benchmarks.number_formats --write     the table anew, from the JSON that there is

Two engines of the same weights take turns within a run, so that a ratio is one of neighbours in time. How near their
pictures are is told of first pictures from one noise, without a text that might differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, Literal

from r3core.bench.ceiling import measure_ceiling
from r3core.bench.driving import drive
from r3core.bench.results import commit, machine, versions
from r3core.bench.setting import Setting
from r3core.config import EngineConfig
from r3core.engine.likeness import psnr
from r3core.runtime import Runtime, load_engine
from r3core.types import Trajectory
from training.eval_set import cases
from training.figures import Json
from training.measured import sample
from training.report import markdown, put_between

PROJECT: Final = Path(__file__).resolve().parent.parent
CHECKPOINT: Final = PROJECT / "checkpoints" / "small"
RESULT: Final = PROJECT / "benchmarks" / "results" / "number_formats.json"
PAGE: Final = PROJECT / "docs" / "performance.md"
BEGIN: Final = "<!-- begin formats: written by `python -m benchmarks.number_formats` -->"
END: Final = "<!-- end formats -->"
FORMATS: Final[tuple[Literal["fp32", "bf16"], ...]] = ("fp32", "bf16")
LOOPS: Final = (1, 8)
_RUNS: Final = 7
_PICTURES: Final = 24
_ROUNDS: Final = 2
HARD_TO_SEE_DB: Final = 40


def main() -> int:
    """Measure, and write what the page shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="measure nothing; the table from the JSON")
    if not parser.parse_args().write:
        RESULT.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    record = json.loads(RESULT.read_text(encoding="utf-8"))
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), record), encoding="utf-8")
    print(table(record))
    return 0


def measure() -> Json:
    """Everything, in plain values."""
    runtimes = [load_engine(EngineConfig(CHECKPOINT, device="cpu", dtype=name)) for name in FORMATS]
    ceilings = [measure_ceiling(runtime)[0].gflop_per_s for runtime in runtimes]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(runtimes[0].loaded.model.bagel.device),
        "versions": versions(),
        "product_gflops": [round(gflops, 1) for gflops in ceilings],
        "loops": [{"at_once": count, "seconds": _seconds(runtimes, count)} for count in LOOPS],
        "pictures": _likeness(runtimes),
    }


def _seconds(runtimes: Sequence[Runtime], count: int) -> list[list[float]]:
    """Of each format the seconds of every run of so many loops at once; a run before them is not counted."""
    ways = [_loops(runtime, count) for runtime in runtimes]
    runs = [[round(run(), 4) for run in ways] for _ in range(_RUNS + 1)]
    return [list(own) for own in zip(*runs[1:], strict=True)]


def _loops(runtime: Runtime, count: int) -> Callable[[], float]:
    setting = Setting(runtime, runs=1, quick=False, say=print)
    asked = [setting.loop(max_rounds=_ROUNDS, seed=seed) for seed in range(count)]
    return partial(_run, runtime, asked)


def _run(runtime: Runtime, asked: Sequence[Trajectory]) -> float:
    return drive(runtime.engine, asked).seconds


def _likeness(runtimes: Sequence[Runtime]) -> Json:
    """How near first pictures in one format are to those in the other."""
    found = []
    for case in sample(cases("validation"), _PICTURES):
        plain = runtimes[0].description.request(case.prompt, seed=case.seed)
        asked = Trajectory(replace(plain, max_rounds=0, think=False))
        one, other = (drive(runtime.engine, [asked]).seen[0].pictures[0].pixels for runtime in runtimes)
        found.append(psnr(one, other))
    others = sum(db < HARD_TO_SEE_DB for db in found)
    return {"of": len(found), "db": round(statistics.median(found), 2), "others": others}


def with_table(text: str, record: Json) -> str:
    """The page with the table in its place. Raises ValueError where it lacks one."""
    return put_between(text, f"\n{table(record)}\n", BEGIN, END)


def table(record: Json) -> str:
    """What stands there."""
    where, pictures, worse = record["machine"], record["pictures"], f"under {HARD_TO_SEE_DB} dB"
    product = record["product_gflops"]
    rows = [["", "float32", "bfloat16", "faster"], ["---"] * 4]
    rows.append(["a large matrix product", *(f"{g:.0f} GFLOP/s" for g in product), f"{product[1] / product[0]:.2f}×"])
    for loops in record["loops"]:
        plain, rounded = loops["seconds"]
        name = "one loop" if loops["at_once"] == 1 else f"{loops['at_once']} loops at once"
        ratio = statistics.median(a / b for a, b in zip(plain, rounded, strict=True))
        seconds = (f"{statistics.median(own):.3g} s ({min(own):.3g}–{max(own):.3g})" for own in (plain, rounded))
        rows.append([name, *seconds, f"{ratio:.2f}×"])
    return (
        f"{markdown(rows)}\n\nMeasured on {record['at'][:10]} at `{record['commit']}` on {where['cores']} cores of an "
        f"{where['cpu']}, malloc of {where['malloc']}. First pictures in bfloat16 are within {pictures['db']:.1f} dB "
        f"of those in float32 in the median, and {pictures['others']} of {pictures['of']} are {worse}."
    )


if __name__ == "__main__":
    raise SystemExit(main())
