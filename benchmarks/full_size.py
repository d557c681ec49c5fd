"""The engine at BAGEL-7B-MoT's true size, with random weights made on the device: the one command for a GPU.

    python benchmarks/full_size.py                   a CUDA GPU with 80 GB or more; under eight minutes, the table last
    python benchmarks/full_size.py --sizes small     the same code with a small model, on any machine

It has never run on a GPU. No checkpoint is needed: random weights write no sentences and never stop, so that texts have
their full length and every round is run, which is the worst case. The parts are measured in the order of what they are
worth, and what the time does not suffice for is left out and named. Results of the true size go to benchmarks/results/;
under the table stand the targets, with the figures beside them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import get_args

import torch

from r3core.bench import full_size
from r3core.bench.ceiling import measure_ceiling
from r3core.bench.random_weights import SMALL, TRUE_SIZE, random_runtime, random_weights
from r3core.bench.results import Results
from r3core.bench.targets import table
from r3core.config import AttentionWanted, EngineConfig
from r3core.runtime import pick_device, pick_dtype, set_up_torch

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "tests" / "golden" / "checkpoint"  # a small one; its ids are words as any
BUDGET_S = 460  # of eight minutes, with some for what comes before and after


def main() -> int:
    """Build, measure, write, and print the table."""
    began_s = time.perf_counter()
    asked = _arguments()
    device = pick_device(asked.device)
    dtype = pick_dtype(asked.dtype, device)
    set_up_torch(EngineConfig(TOKENIZER))
    is_true = asked.sizes == "true"
    sizes = {"true": full_size.TRUE, "small": full_size.SMALL, "trial": full_size.TRIAL}[asked.sizes]
    loaded = random_weights(TRUE_SIZE if is_true else SMALL, TOKENIZER, device, dtype)
    runtime = random_runtime(loaded, sizes.side, sizes.loops, asked.attention)
    _say(f"{runtime.engine.plan()}\nattention: {runtime.attention.attention.name} ({runtime.attention.reason})")
    ceiling, lines = measure_ceiling(runtime)
    budget = full_size.Budget(asked.budget, began_s)
    path = _path(asked, device)
    command = "python benchmarks/full_size.py" + ("" if is_true else f" --sizes {asked.sizes}")
    if path is not None:
        Results.of(runtime, command, ceiling, lines, []).write(path)
    for line in full_size.FullSize(runtime, sizes, ceiling, _say).measure(budget):
        lines.append(line)
        if path is not None:  # after every line: a run that is ended leaves what it had
            Results.of(runtime, command, ceiling, lines, budget.left_out).write(path)
    if path is not None:
        Results.of(runtime, command, ceiling, lines, budget.left_out).write(path)
    print("\n".join(["", *budget.left_out, "", table(lines, ceiling, is_true_size=is_true)]))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", choices=("true", "small", "trial"), default="true", help="trial: small, and little")
    parser.add_argument("--device")
    parser.add_argument("--dtype", choices=("bf16", "fp32"))
    ways = get_args(AttentionWanted)
    parser.add_argument("--attention", choices=ways, default="auto", help="auto: the first whose probe passes")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds in all")
    parser.add_argument(
        "--results", type=Path, help="where to write them; other sizes than true go nowhere unless named"
    )
    asked = parser.parse_args()
    if asked.sizes == "true" and pick_device(asked.device).type != "cuda":
        parser.error("the true size needs a CUDA GPU; --sizes small checks the harness on this machine")
    return asked


def _path(asked: argparse.Namespace, device: torch.device) -> Path | None:
    named: Path | None = asked.results
    if named is not None or asked.sizes != "true":
        return named
    name = "".join(c if c.isalnum() else "_" for c in torch.cuda.get_device_name(device).lower())
    return ROOT / "benchmarks" / "results" / f"full_size_{name}_{asked.dtype or 'bf16'}.json"


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
