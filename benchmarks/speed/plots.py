"""The plots of docs/performance.md: ways, rates by batch, growth, and how long requests take under load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from PIL import Image as PILImage

from benchmarks.speed.chart import Point, bars, lines
from r3core.bench.line import Line
from r3core.bench.results import Results

BEFORE: Final = "before"
AFTER: Final = "after"
CEILING: Final = "the ceiling"
_RATES: Final = {
    "performance_decode.png": ("Tokens a second", "decode", "tokens decoded"),
    "performance_draw.png": ("Steps of first pictures a second", "denoise", "text-to-image steps"),
    "performance_edit.png": ("Steps of edits a second", "denoise", "edit steps"),
}
_AXES: Final = {
    "rounds": ("performance_rounds.png", "refinements"),
    "steps": ("performance_steps.png", "steps of a picture"),
    "side": ("performance_side.png", "pixels of a side"),
    "batch": ("performance_batch.png", "loops at once"),
}
TITLES: Final = {
    "performance_ways.png": "A whole loop, way by way",
    **{name: title for name, (title, _, _) in _RATES.items()},
    **{name: f"Seconds by {axis}" for name, axis in _AXES.values()},
    "performance_load.png": "Requests that come at random",
}
Runs = Mapping[str, Results]


def write_plots(folder: Path, runs: Runs) -> None:
    """Draw them into a folder."""
    for name, picture in drawn(runs).items():
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name)


def drawn(runs: Runs) -> dict[str, PILImage.Image]:
    """Each that there is something to draw of, by its name; `runs` are those before and after."""
    return dict(_drawn(runs))


def _drawn(runs: Runs) -> Iterator[tuple[str, PILImage.Image]]:
    if groups := ways(runs):
        name = "performance_ways.png"
        yield name, bars(TITLES[name], "seconds of one loop, the median of the runs", groups, "s")
    for name, (title, part, line) in _RATES.items():
        if series := rates(runs, part, line):
            under = "by how many there are at once"
            yield name, lines(title, under, series, "batch", dashed=(CEILING,), are_rates=True)
    for key, (name, axis) in _AXES.items():
        if series := growth(runs, key):
            yield name, lines(TITLES[name], "of a whole loop, all else as it is", series, axis)
    if groups := load(runs):
        name = "performance_load.png"
        yield name, bars(TITLES[name], "seconds of a request", groups, "s")


def ways(runs: Runs) -> dict[str, dict[str, float]]:
    """The seconds of each way, before and after."""
    groups: dict[str, dict[str, float]] = {}
    for name, run in runs.items():
        for line in run.of_part("ways"):
            if line.unit == "s":
                groups.setdefault(str(line.settings.get("way", line.name)), {})[name] = line.value
    return groups


def rates(runs: Runs, part: str, name: str) -> dict[str, list[Point]]:
    """A rate by batch, before and after, and the most that this machine could do of it."""
    series: dict[str, list[Point]] = {}
    for run_name, run in runs.items():
        found = [line for line in run.of_part(part) if line.name == name and "batch" in line.settings]
        if len(found) > 1:
            series[run_name] = [(float(line.settings["batch"]), line.value) for line in found]
            limits = [(float(line.settings["batch"]), limit) for line in found if (limit := _limit(run, line))]
            if limits:
                series[CEILING] = limits
    if CEILING in series:
        series[CEILING] = series.pop(CEILING)  # the last of the key
    return series


def _limit(run: Results, line: Line) -> float | None:
    floor_s = run.ceiling.floor_s(line)
    return 1 / floor_s if floor_s else None


def growth(runs: Runs, key: str) -> dict[str, list[Point]]:
    """Seconds by one setting, of what was measured at several values of it."""
    series: dict[str, list[Point]] = {}
    for run_name, run in runs.items():
        by_name: dict[str, list[Point]] = {}
        for line in _grown(run.of_part("growth"), key):
            by_name.setdefault(line.name, []).append((float(line.settings[key]), line.value))
        several = {name: sorted(points) for name, points in by_name.items() if len(points) > 1}
        for name, points in several.items():
            series[run_name if len(several) == 1 else f"{name}, {run_name}"] = points
    return series


def _grown(found: Sequence[Line], key: str) -> list[Line]:
    return [line for line in found if line.unit == "s" and key in line.settings]


def load(runs: Runs) -> dict[str, dict[str, float]]:
    """Seconds of requests under load, in the engine alone and in the whole system."""
    groups: dict[str, dict[str, float]] = {}
    for name, run in runs.items():
        for part in ("load", "system load"):
            for line in run.of_part(part):
                if line.unit == "s":
                    groups.setdefault(f"{part}: {line.name}", {})[name] = line.value
    return groups
