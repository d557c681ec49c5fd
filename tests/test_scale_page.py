"""docs/scaling.md says what its figures say, and nothing besides."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from benchmarks.scale import IMAGES, PAGE, RESULTS, read
from benchmarks.scaling import figures, plots
from benchmarks.scaling.page import BEGIN, END, paper, tables, with_tables
from benchmarks.scaling.plan import (
    BRANCH_S,
    CROWD,
    EDITS,
    FULL_MINUTES,
    SIDE,
    TENANTS,
    TOKEN_S,
    Point,
    Run,
    job_s,
)

CORES = {"there_are": 8, "all": 2.0, "others": 0.1, "redis": 0.2, "apis": 0.3, "workers": 1.0, "generator": 0.2}


def one_point(workers: int, **changes: Any) -> dict[str, Any]:
    """A point as it might be measured on a quiet machine, every job the same."""
    asked = Point(workers)
    spread = {"count": 9, "p50": 0.002, "p99": 0.01, "max": 0.02}
    shares = {"flood": {"due": 1 / 7, "had": 0.15}, "gold": {"due": 4 / 7, "had": 0.55}}
    return {
        "date": "2026-01-01",
        "asked": asked.to_json(),
        "is_trial": asked.is_trial,
        "limits": [figures.DEVICES],
        "is_usable": True,
        "is_whole": True,
        "window_s": 300.0,
        "offered_per_s": workers * 0.2,
        "done_per_s": workers * 0.125,
        "devices": {"busy": 0.9, "turning": 0.99},
        "wait_s": spread,
        "event_s": spread,
        "picture_s": spread,
        "events": {"job.queued": 100, "image.progress": 200, "image": 100},
        "events_per_s": workers * 10.0,
        "cores": CORES,
        "redis": {
            "script_us": 100.0,
            "memory_bytes": 20e6,
            "clients": workers * 5,
            "version": "9.1.2",
            "kept_bytes": {"ev": 10_000.0, "job": 12_000.0},
            "worker_connections": workers * 4,
        },
        "tenants": {"modest": {"wait_s": spread}, "flood": {"wait_s": spread}},
        "fairness": {"jain": 0.99, "shares": shares},
        "loss": {"streams_resumed": 0, "acknowledged": 100, "followed": 80},
        "per_job": {
            "events": 80.0,
            "stream_bytes": 30_000.0,
            "redis_in_bytes": 60_000.0,
            "redis_out_bytes": 70_000.0,
            "redis_held_bytes": 20_000.0,
            "redis_cpu_ms": 8.0,
            "api_cpu_ms": 20.0,
        },
        **changes,
    }


def test_the_page_has_the_tables_that_the_results_make() -> None:
    text = PAGE.read_text()
    assert text == with_tables(text, read(RESULTS))


def test_every_other_figure_of_the_page_is_one_that_the_load_test_works_by() -> None:
    text = PAGE.read_text()
    for name in tables({"machine": {}, "points": {}}):
        before, _, rest = text.partition(BEGIN.format(name=name))
        text = before + rest.partition(END.format(name=name))[2]
    prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", text, flags=re.DOTALL)
    run, modest = Run(), next(tenant for tenant in TENANTS if tenant.share is not None)
    known = {
        *(f"{tenant.weight:g}" for tenant in TENANTS),
        *(f"{job_s(edits):.1f}".removesuffix(".0") for edits in EDITS),
        *(f"{1000 * TOKEN_S:g}", f"{1000 * BRANCH_S:g}", str(SIDE)),
        *(str(run.workers[2]), str(run.crowded), str(CROWD)),  # the points that are told of by name
        *(f"{100 * (modest.share or 0):g}", f"{100 * Point(1).follow:g}", f"{run.backlog:,}", "40"),
    }
    found = set(re.findall(r"(?<![A-Za-z\d])\d[\d,.]*(?<![,.])(?:x\d+)?", prose)) - {"200"}  # "H200" is a name
    assert found <= known, found - known
    assert FULL_MINUTES == 5  # "for five"


def test_tables_and_plots_tell_what_was_measured() -> None:
    noisy = one_point(16, is_usable=False, limits=[figures.GENERATOR])
    results = {"machine": {"cores": 2, "system": "Linux", "python": "3.11", "version": "0"}, "points": {}}
    results["points"] = {"workers-1": one_point(1), "workers-4": one_point(4), "workers-16": noisy}
    made = tables(results)
    assert "| workers-64 | not measured yet |" in made["times"]
    assert "(images/scale_jobs.png)" in made["plots"]
    assert "the generator was the limit (**no conclusion**)" in made["times"]
    assert "computed | from workers-4 |" in made["paper"]  # not from the one that is good for nothing
    assert "| jobs a second | 125 |" in made["paper"]
    assert "| Redis, cores | 1.00 |" in made["paper"]
    assert "| Redis, connections of workers | 4,000 |" in made["paper"]
    assert "| Redis, memory for events, an hour's | 4.5 GB (10 kB a job) |" in made["paper"]
    assert "| Redis, memory for jobs, a day's | 130 GB (12 kB each) |" in made["paper"]
    assert "| Redis, primaries at 60% of a core | 2 |" in made["paper"]
    assert plots.jobs(plots.steady(results))["in proportion"][-1] == (16, 2.0)


def test_each_figure_is_told_with_the_machine_it_was_measured_on() -> None:
    """A run that is gone on with may be on another than the points that are there."""
    small, large = ({"cores": cores, "system": "Linux", "python": "3.11", "version": "0"} for cores in (2, 16))
    points = {"workers-1": one_point(1), "workers-4": one_point(4, machine=large)}
    made = tables({"machine": small, "points": points})["machine"]
    assert "Measured on 2026-01-01: 2 cores, Linux, Python 3.11, r3 0, Valkey or Redis 9.1.2: workers-1.\n" in made
    assert "Measured on 2026-01-01: 16 cores, Linux, Python 3.11, r3 0, Valkey or Redis 9.1.2: workers-4.\n" in made


def test_a_fleet_is_computed_from_workers_alone_and_in_company() -> None:
    crowded = one_point(4, done_per_s=0.8, asked=Point(4, places=8).to_json())
    points = {"workers-4x8": crowded, "workers-1": one_point(1), "workers-16": one_point(16)}
    made = paper({"machine": {}, "points": points})
    assert "| 1,000 GPUs, computed | from workers-16 | from workers-4x8 |" in made
    assert "| jobs a second | 125 | 200 |" in made


def test_a_trial_is_marked_and_nothing_is_computed_from_it() -> None:
    trial = one_point(4, is_trial=True, is_usable=False)
    results = {"machine": {"cores": 2, "system": "Linux", "python": "3.11", "version": "0"}, "points": {}}
    results["points"] = {"workers-4": trial}
    assert "| workers-4 (a trial) |" in tables(results)["times"]
    assert tables(results)["plots"] == "Nothing was drawn yet.\n"
    assert paper(results) == "Nothing good for conclusions was measured yet.\n"


def test_the_plots_are_those_that_the_results_make() -> None:
    made = plots.drawn(read(RESULTS))
    assert set(made) == set(plots.TITLES)
    for name, picture in made.items():
        with PILImage.open(IMAGES / name) as shown:
            assert shown.tobytes() == picture.tobytes(), name


def test_plots_are_drawn_where_there_is_something_to_draw(tmp_path: Path) -> None:
    plots.write_plots(tmp_path, {"points": {"workers-1": one_point(1)}})
    assert not list(tmp_path.iterdir())
    plots.write_plots(tmp_path, {"points": {"workers-1": one_point(1), "workers-4": one_point(4)}})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scale_cores.png", "scale_events.png", "scale_jobs.png"]
