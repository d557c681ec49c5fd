"""Three plots of what was measured: how far the load went, what it took, and how late events came. Drawn with PIL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import log10
from pathlib import Path
from typing import Any, Final

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from benchmarks.scaling.figures import Json

_SCALE: Final = 2  # drawn twice as large as it is shown
_SIZE: Final = (760, 460)
_LEFT, _TOP, _WIDTH, _HEIGHT = 84, 92, 520, 300
_PAPER: Final = (255, 255, 255)
_INK: Final = (24, 26, 30)
_GREY: Final = (104, 110, 120)
_RULE: Final = (226, 229, 233)
_COLOURS: Final = ((28, 92, 170), (196, 98, 16), (46, 125, 80), (140, 60, 140))
TITLES: Final = {
    "scale_jobs.png": "Jobs done a second",
    "scale_cores.png": "Cores in use",
    "scale_events.png": "Milliseconds from an event to its client",
}
_UNDER: Final = "by workers; hollow: the surroundings were the limit"
Point = tuple[float, float]
Colour = tuple[int, int, int]
Lines = dict[str, list[Point]]


def write_plots(folder: Path, results: Mapping[str, Any]) -> None:
    """Draw them into a folder."""
    for name, picture in drawn(results).items():
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name)


def drawn(results: Mapping[str, Any]) -> dict[str, PILImage.Image]:
    """Each by its name, where two points or more were measured with one job at a time; a trial is none."""
    points = steady(results)
    if len(points) < 2:
        return {}
    each = zip(TITLES.items(), (jobs(points), cores(points), late(points)), strict=True)
    return {name: _plot(title, lines, points) for (name, title), lines in each}


def steady(results: Mapping[str, Any]) -> list[Json]:
    """The points that a plot has, by workers."""
    found = [p for p in results["points"].values() if not p["asked"]["backlog"] and p["asked"]["places"] == 1]
    return sorted((p for p in found if not p["is_trial"]), key=lambda p: int(p["asked"]["workers"]))


def jobs(points: Sequence[Json]) -> Lines:
    """What was done, and what as many times the first point would be."""
    first = points[0]["done_per_s"] / points[0]["asked"]["workers"]
    return {
        "in proportion": [(_workers(p), first * _workers(p)) for p in points],
        "done": [(_workers(p), p["done_per_s"]) for p in points],
    }


def cores(points: Sequence[Json]) -> Lines:
    """Who took how much."""
    kinds = {"Redis": "redis", "APIs": "apis", "workers": "workers", "generator": "generator"}
    return {name: [(_workers(p), p["cores"][kind]) for p in points] for name, kind in kinds.items()}


def late(points: Sequence[Json]) -> Lines:
    """How long an event takes."""
    return {
        of: [(_workers(p), 1000 * p["event_s"][of]) for p in points if p["event_s"]["count"]] for of in ("p50", "p99")
    }


def _workers(point: Json) -> int:
    return int(point["asked"]["workers"])


def _plot(title: str, lines: Lines, points: Sequence[Json]) -> PILImage.Image:
    """Both axes are logarithmic: a straight line is a proportion."""
    picture = PILImage.new("RGB", (_SIZE[0] * _SCALE, _SIZE[1] * _SCALE), _PAPER)
    draw = ImageDraw.Draw(picture)
    values = [y for line in lines.values() for _, y in line if y > 0]
    low, high = _decades(values)
    workers = [_workers(point) for point in points]
    hollow = {_workers(point) for point in points if not point["is_usable"]}

    def at(x: float, y: float) -> Point:
        across = (log10(x) - log10(workers[0])) / max(log10(workers[-1]) - log10(workers[0]), 1e-9)
        up = (log10(max(y, 10**low)) - low) / (high - low)
        return _LEFT + _WIDTH * (0.04 + 0.92 * across), _TOP + _HEIGHT * (1 - up)

    _text(draw, (_LEFT - 40, 22), title, 21, _INK, "la")
    _text(draw, (_LEFT - 40, 51), _UNDER, 14, _GREY, "la")
    for decade in range(low, high + 1):
        _, y = at(workers[0], 10.0**decade)
        draw.line(_scaled([(_LEFT, y), (_LEFT + _WIDTH, y)]), _RULE, _SCALE)
        _text(draw, (_LEFT - 8, y), f"{10.0**decade:g}", 14, _GREY, "rm")
    for count in workers:
        _text(draw, (at(count, 1)[0], _TOP + _HEIGHT + 9), str(count), 15, _GREY, "ma")
    for index, ((name, line), colour) in enumerate(zip(lines.items(), _COLOURS, strict=False)):
        places = [at(x, y) for x, y in line]
        for ends in pairwise(places):
            draw.line(_scaled(list(ends)), colour, round(2.5 * _SCALE))
        for (x, y), (workers_, _) in zip(places, line, strict=True):
            box = _scaled([(x - 4, y - 4), (x + 4, y + 4)])
            draw.ellipse(box, _PAPER if workers_ in hollow else colour, colour, _SCALE)
        key = (_LEFT + _WIDTH + 14, _TOP + 22 * index)
        draw.rectangle(_scaled([key, (key[0] + 12, key[1] + 12)]), colour)
        _text(draw, (key[0] + 19, key[1] + 6), name, 14, _INK, "lm")
    return picture.resize(_SIZE, PILImage.Resampling.LANCZOS)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten around them."""
    low, high = min(values, default=1.0), max(values, default=1.0)
    first = int(log10(low) // 1)
    return first, max(first + 1, int(-(-log10(high) // 1)))


def _text(draw: ImageDraw.ImageDraw, at: Point, text: str, size: int, colour: Colour, anchor: str) -> None:
    font = ImageFont.load_default(size * _SCALE)
    draw.text(_scaled([at])[0], text, colour, font, anchor)


def _scaled(points: Sequence[Point]) -> list[Point]:
    return [(x * _SCALE, y * _SCALE) for x, y in points]
