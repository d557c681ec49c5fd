"""What bfloat16 gains and costs on a CPU, with checkpoints/small: a part of docs/performance.md from one run.

    python -m benchmarks.number_formats             measure, then write JSON and table; two minutes
    python -m benchmarks.number_formats --write     the table anew, from the JSON that there is

What is compared takes turns, so that a ratio is one of neighbours in time. Texts may differ by a word, so their tokens
are told. How near pictures are is told of first pictures from one noise, without a text.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, Literal

import torch

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
_TALL: Final = (1026, 3584, 37888)  # gate and up of R3's size for the latents of 512 x 512: rows, in, out
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
    laid_out = _in_turn([partial(_laid_out_gflops, runtime) for runtime in runtimes])
    tall = _in_turn([partial(_tall_gflops, runtime.loaded.model.bagel.dtype) for runtime in runtimes])
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(runtimes[0].loaded.model.bagel.device),
        "versions": versions(),
        "laid_out_gflops": laid_out,
        "tall_gflops": tall,
        "loops": [_measured_loops(runtimes, count) for count in LOOPS],
        "pictures": _likeness(runtimes),
    }


def _in_turn(ways: Sequence[Callable[[], float]]) -> list[list[float]]:
    """Of each format what every run came to; a run before them is not counted."""
    runs = [[round(way(), 4) for way in ways] for _ in range(_RUNS + 1)]
    return [list(own) for own in zip(*runs[1:], strict=True)]


def _laid_out_gflops(runtime: Runtime) -> float:
    return measure_ceiling(runtime)[0].gflop_per_s


def _tall_gflops(dtype: torch.dtype) -> float:
    """Weights of that size are not laid out for oneDNN: torch's own product (r3core.model.bagel.laid_out_bytes)."""
    rows, size_in, size_out = _TALL
    x, weight = torch.ones(rows, size_in, dtype=dtype), torch.ones(size_out, size_in, dtype=dtype)
    began_s = time.perf_counter()
    torch.nn.functional.linear(x, weight)
    return 2 * rows * size_in * size_out / (time.perf_counter() - began_s) / 1e9


def _measured_loops(runtimes: Sequence[Runtime], count: int) -> Json:
    """The seconds of so many loops at once, run by run, and the tokens of their texts."""
    asked = [_loops(runtime, count) for runtime in runtimes]
    pairs = list(zip(runtimes, asked, strict=True))
    seconds = _in_turn([partial(_seconds, runtime, own) for runtime, own in pairs])
    tokens = [sum(s.trajectory.usage.text_tokens for s in drive(r.engine, own).seen) for r, own in pairs]
    return {"at_once": count, "seconds": seconds, "tokens": tokens}


def _loops(runtime: Runtime, count: int) -> list[Trajectory]:
    setting = Setting(runtime, runs=1, quick=False, say=print)
    return [setting.loop(max_rounds=_ROUNDS, seed=seed) for seed in range(count)]


def _seconds(runtime: Runtime, asked: Sequence[Trajectory]) -> float:
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
    rows = [["", "float32", "bfloat16", "faster"], ["---"] * 4]
    for name, key in (("laid out for oneDNN", "laid_out_gflops"), ("of R3's size, torch's own", "tall_gflops")):
        plain, rounded = record[key]
        rates = (f"{statistics.median(own):.0f} GFLOP/s" for own in (plain, rounded))
        rows.append([f"a matrix product, {name}", *rates, _ratio(rounded, plain)])
    for loops in record["loops"]:
        plain, rounded = loops["seconds"]
        tokens = " and ".join(map(str, dict.fromkeys(loops["tokens"])))
        name = "one loop" if loops["at_once"] == 1 else f"{loops['at_once']} loops at once"
        seconds = (f"{statistics.median(own):.3g} s" for own in (plain, rounded))
        rows.append([f"{name}, {tokens} tokens", *seconds, _ratio(plain, rounded)])
    return (
        f"{markdown(rows)}\n\nMeasured on {record['at'][:10]} at `{record['commit']}` on {where['cores']} cores of an "
        f"{where['cpu']}, malloc of {where['malloc']}. The signal-to-noise ratio of first pictures in bfloat16 against "
        f"those in float32 is {pictures['db']:.1f} dB in the median, and {worse} in {pictures['others']} of "
        f"{pictures['of']}."
    )


def _ratio(more: Sequence[float], less: Sequence[float]) -> str:
    """Run by run: the median, and the least and the most."""
    found = [a / b for a, b in zip(more, less, strict=True)]
    return f"{statistics.median(found):.2f}× ({min(found):.2f}–{max(found):.2f})"


if __name__ == "__main__":
    raise SystemExit(main())
