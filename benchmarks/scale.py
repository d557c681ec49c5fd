"""Scale, shown: jobs at full load for 1, 4, 16 and 64 simulated workers around one Redis, and a backlog of 10,000 jobs.

    python -m benchmarks.scale                       everything: some fifty minutes, on a machine that does nothing else
    python -m benchmarks.scale --missing             what has no figures yet: goes on after an interruption
    python -m benchmarks.scale --only workers-16     one point anew; the others' figures stay
    python -m benchmarks.scale --workers 2 --crowded 0 --backlog 40 --backlog-workers 2 --minutes 0.3 --speedup 4
                                                     a trial of a minute, which is not written down
    python -m benchmarks.scale --write               table and plots anew from the figures that there are

Real API processes, the worker's own code around a device that only sleeps, a real Redis on a port of loopback, clients
in a process of their own. Figures go to benchmarks/results/scale.json, point by point, and from there into
docs/scaling.md and docs/images/scale_*.png; a trial's figures go where --results says, or nowhere. Ctrl-C ends it, with
all that it has started. Linux only: processor time is read from /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Final

from benchmarks.scaling.figures import Json
from benchmarks.scaling.page import write_page
from benchmarks.scaling.parts import ROOT, Broken
from benchmarks.scaling.plan import CROWD, FULL_MINUTES, Point, Run
from benchmarks.scaling.plots import write_plots
from benchmarks.scaling.point import measured
from server import __version__

RESULTS: Final = ROOT / "benchmarks" / "results" / "scale.json"
PAGE: Final = ROOT / "docs" / "scaling.md"
IMAGES: Final = ROOT / "docs" / "images"
RUN: Final = Run()


def main() -> int:
    """Measure what was asked for; 1 where a point lost something or could not be measured."""
    asked = _asked()
    results = read(asked.results or RESULTS)
    if asked.write:
        _show(results)
        return 0
    code = 0
    for point in _wanted(asked, results):
        try:
            figures = measured(point, _say)
        except Broken as error:
            _say(f"{point.name}: could not be measured: {error}")
            code = 1
            continue
        _say(json.dumps(figures, indent=1) if asked.verbose else told(point, figures))
        results["points"][point.name] = {**figures, "machine": machine()}
        code = code if figures["is_whole"] else 1
        if asked.results or not point.is_trial:
            _write(asked.results or RESULTS, results)
    return code


def read(path: Path) -> Json:
    """What was measured so far."""
    return dict(json.loads(path.read_text())) if path.exists() else {"machine": {}, "points": {}}


def told(point: Point, figures: Json) -> str:
    """A point in a few lines."""
    cores, wait, event = figures["cores"], figures["wait_s"], figures["event_s"]
    return (
        f"{point.name}: {figures['offered_per_s']:.2f} offered and {figures['done_per_s']:.2f} done a second; "
        f"devices busy {figures['devices']['busy']:.0%}, engines turning {figures['devices']['turning']:.0%}; "
        f"waits p50 {wait['p50']} s, p99 {wait['p99']} s; "
        f"{figures['events_per_s']:.0f} events a second, p50 {event['p50']} s, p99 {event['p99']} s\n"
        f"  cores: Redis {cores['redis']:.2f}, APIs {cores['apis']:.2f}, workers {cores['workers']:.2f}, generator "
        f"{cores['generator']:.2f}, others {cores['others']:.2f}, all {cores['all']:.2f} of {cores['there_are']}; "
        f"Redis {figures['redis']['memory_bytes'] / 1e6:.0f} MB; Jain {figures['fairness']['jain']}\n"
        f"  {'; '.join(figures['limits'])}; {'nothing lost' if figures['is_whole'] else figures['loss']}"
    )


def machine() -> Json:
    """The class of this machine: what figures may be compared by."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.system(),
        "python": platform.python_version(),
        "version": __version__,
    }


def _wanted(asked: argparse.Namespace, results: Json) -> list[Point]:
    common = Point(
        1,
        minutes=asked.minutes,
        speedup=asked.speedup,
        places=asked.places,
        apis=asked.apis,
        per_process=asked.per_process,
        follow=asked.follow,
    )
    run = Run(asked.workers, asked.crowded, asked.backlog, asked.backlog_workers, asked.backlog_follow)
    wanted = run.points(common)
    names = [point.name for point in wanted]
    if strange := sorted(set(asked.only or names) - set(names)):
        raise SystemExit(f"{', '.join(strange)} is no point of this run; there are {', '.join(names)}")
    wanted = [point for point in wanted if not asked.only or point.name in asked.only]
    if asked.missing:
        wanted = [p for p in wanted if results["points"].get(p.name, {}).get("asked") != p.to_json()]
    return wanted


def _write(path: Path, results: Json) -> None:
    """The figures, and where they are the project's own, what is made from them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    fresh.rename(path)
    if path == RESULTS:
        _show(results)


def _show(results: Json) -> None:
    """Tables and plots anew."""
    write_page(PAGE, results)
    write_plots(IMAGES, results)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--workers", type=_counts, default=RUN.workers, metavar="1,4", help="how many simulated workers"
    )
    parser.add_argument("--minutes", type=float, default=FULL_MINUTES, help="that count, of each number of workers")
    parser.add_argument("--backlog", type=int, default=RUN.backlog, help="jobs put there at once; 0: no such point")
    parser.add_argument("--backlog-workers", type=int, default=RUN.backlog_workers)
    parser.add_argument("--backlog-follow", type=float, default=RUN.backlog_follow, help="as --follow, of the backlog")
    parser.add_argument(
        "--crowded",
        type=int,
        default=RUN.crowded,
        help=f"workers of the point with {CROWD} jobs at a time each; 0: none",
    )
    parser.add_argument("--speedup", type=float, default=1.0, help="devices so many times as fast: for a trial")
    parser.add_argument("--places", type=int, default=Point(1).places, help="jobs at a time of each worker")
    parser.add_argument("--apis", type=int, default=Point(1).apis, help="API processes")
    parser.add_argument("--per-process", type=int, default=Point(1).per_process, help="workers in one process")
    parser.add_argument("--follow", type=float, default=Point(1).follow, help="share of clients that follow the stream")
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="NAME,...", help="these points alone")
    parser.add_argument("--missing", action="store_true", help="only what has no figures with these settings")
    parser.add_argument("--results", type=Path, help="where the figures go, in place of the project's own file")
    parser.add_argument("--write", action="store_true", help="measure nothing; write table and plots anew")
    parser.add_argument("--verbose", action="store_true", help="print all figures of each point")
    asked = parser.parse_args()
    for name in ("minutes", "speedup", "places", "apis", "per_process", "backlog_workers"):
        if getattr(asked, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0")
    return asked


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(int(part) for part in text.split(","))
    if min(counts) < 1:
        raise argparse.ArgumentTypeError("each must be at least 1")
    return counts


def _say(text: str) -> None:
    print(text, flush=True)


def _leave(_number: int, _frame: FrameType | None) -> Any:
    raise KeyboardInterrupt  # the blocks that are open end what they have started


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):  # which is ignored from the start where a script runs this with `&`
        signal.signal(number, _leave)
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        print("interrupted; all that ran has been ended", file=sys.stderr)
        raise SystemExit(130) from None
