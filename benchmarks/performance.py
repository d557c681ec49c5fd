"""docs/performance.md and its plots, from figures of `r3 bench`: before the work on speed, and after it.

    make bench ARGS='--results benchmarks/results/bench_cpu.json'      measures, on a machine that does nothing else
    python -m benchmarks.performance                                   tables and plots anew, from the figures there are

Everything between markers is written, and nothing else.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from benchmarks.speed.page import Runs, with_tables
from benchmarks.speed.plots import write_plots
from r3core.bench.results import Results

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "performance.md"
IMAGES: Final = ROOT / "docs" / "images"
RESULTS: Final = ROOT / "benchmarks" / "results"


def main() -> int:
    """Write page and plots."""
    asked = _asked()
    runs = read(asked.results)
    asked.page.write_text(with_tables(asked.page.read_text(encoding="utf-8"), runs), encoding="utf-8")
    write_plots(asked.images, dict(runs))
    return 0


def read(folder: Path) -> Runs:
    """The runs that there are."""
    before, after = (_read(folder / f"{name}.json") for name in ("bench_cpu_before", "bench_cpu"))
    elsewhere, gpu = (_all(folder, names) for names in ("bench_cpu_on_*.json", "full_size_*.json"))
    return Runs(before, after, elsewhere, gpu)


def _all(folder: Path, names: str) -> list[Results]:
    return [Results.read(path) for path in sorted(folder.glob(names))]


def _read(path: Path) -> Results | None:
    return Results.read(path) if path.exists() else None


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder with the runs")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page, in place of the project's own")
    parser.add_argument("--images", type=Path, default=IMAGES, help="the folder of the plots")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
