"""Bars and lines, drawn with PIL: each as large as it is shown, from values that are its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import ceil, floor, log10
from typing import Final

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

_SCALE: Final = 2  # drawn twice as large as it is shown
_WIDTH: Final = 760
_LEFT, _TOP, _ACROSS, _UP = 84, 92, 480, 260
_PAPER: Final = (255, 255, 255)
_INK: Final = (24, 26, 30)
_GREY: Final = (104, 110, 120)
_RULE: Final = (226, 229, 233)
COLOURS: Final = ((28, 92, 170), (196, 98, 16), (46, 125, 80), (140, 60, 140), (104, 110, 120))
Point = tuple[float, float]
Colour = tuple[int, int, int]


class _Sheet:
    """What is drawn on."""

    def __init__(self, height: float, title: str, under: str) -> None:
        self._size = (_WIDTH, round(height))
        self._picture = PILImage.new("RGB", (self._size[0] * _SCALE, self._size[1] * _SCALE), _PAPER)
        self._draw = ImageDraw.Draw(self._picture)
        self.text((_LEFT - 40, 22), title, 21, _INK, "la")
        self.text((_LEFT - 40, 51), under, 14, _GREY, "la")

    def text(self, at: Point, text: str, size: int, colour: Colour, anchor: str) -> None:
        self._draw.text(_scaled([at])[0], text, colour, ImageFont.load_default(size * _SCALE), anchor)

    def line(self, points: Sequence[Point], colour: Colour, width: float = 1.0, *, dashed: bool = False) -> None:
        for start, end in pairwise(points):
            if not dashed:
                self._draw.line(_scaled([start, end]), colour, round(width * _SCALE))
                continue
            length = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1.0)
            for at in range(0, int(length), 9):
                ends = [_between(start, end, min(1.0, (at + more) / length)) for more in (0, 5)]
                self._draw.line(_scaled(ends), colour, round(width * _SCALE))

    def box(self, corner: Point, other: Point, colour: Colour) -> None:
        self._draw.rectangle(_scaled([corner, other]), colour)

    def dot(self, at: Point, colour: Colour) -> None:
        self._draw.ellipse(_scaled([(at[0] - 4, at[1] - 4), (at[0] + 4, at[1] + 4)]), colour)

    def key(self, number: int, colour: Colour, words: str, left: float = _LEFT + _ACROSS + 16) -> None:
        top = _TOP + 22 * number
        self.box((left, top), (left + 12, top + 12), colour)
        self.text((left + 19, top + 6), words, 14, _INK, "lm")

    def shown(self) -> PILImage.Image:
        return self._picture.resize(self._size, PILImage.Resampling.LANCZOS)


def bars(title: str, under: str, groups: Mapping[str, Mapping[str, float]], unit: str) -> PILImage.Image:
    """A group of lying bars for each name, one for each series, in the order in which they come."""
    series = list(dict.fromkeys(name for group in groups.values() for name in group))
    thick, gap = 15, 16
    height = _TOP + sum(thick * len(group) + gap for group in groups.values()) + 20
    sheet = _Sheet(height, title, under)
    most = max((value for group in groups.values() for value in group.values()), default=1.0)
    left, across, y = 230, 310, _TOP + 4.0
    for name, group in groups.items():
        sheet.text((left - 10, y + thick * len(group) / 2), name, 14, _INK, "rm")
        for of, value in group.items():
            end = left + max(1.0, across * value / most)
            sheet.box((left, y), (end, y + thick - 3), COLOURS[series.index(of)])
            sheet.text((end + 6, y + thick / 2 - 1), f"{_number(value)} {unit}", 13, _GREY, "lm")
            y += thick
        y += gap
    if len(series) > 1:
        for number, of in enumerate(series):
            sheet.key(number, COLOURS[number], of, _WIDTH - 110)
    return sheet.shown()


def lines(
    title: str,
    under: str,
    series: Mapping[str, Sequence[Point]],
    axis: str,
    *,
    dashed: Sequence[str] = (),
    are_rates: bool = False,
) -> PILImage.Image:
    """Lines over an axis whose marks are the values that there are; upwards from 0. Those in `dashed` are limits.

    Rates are drawn by doublings: marks at the same distance, and upwards by powers, so that a proportion is straight.
    """
    sheet = _Sheet(_TOP + _UP + 58, title, under)
    marks = sorted({x for line in series.values() for x, _ in line})
    places_of = {x: float(number) if are_rates else x for number, x in enumerate(marks)}
    first, last = places_of[marks[0]], places_of[marks[-1]]
    values = [y for line in series.values() for _, y in line]
    heights = _powers(min(values), max(values)) if are_rates else _steps(max(values))
    scale = log10 if are_rates else float
    low, high = scale(heights[0]), scale(heights[-1])

    def at(x: float, y: float) -> Point:
        across = (places_of[x] - first) / ((last - first) or 1.0)
        return _LEFT + _ACROSS * (0.03 + 0.94 * across), _TOP + _UP * (1 - (scale(y) - low) / (high - low))

    for height in heights:
        _, y = at(marks[0], height)
        sheet.line([(_LEFT, y), (_LEFT + _ACROSS, y)], _RULE)
        sheet.text((_LEFT - 8, y), f"{height:,g}", 14, _GREY, "rm")
    for x in marks:
        sheet.text((at(x, heights[0])[0], _TOP + _UP + 9), f"{x:g}", 14, _GREY, "ma")
    sheet.text((_LEFT + _ACROSS / 2, _TOP + _UP + 32), axis, 14, _GREY, "ma")
    for number, (name, line) in enumerate(series.items()):
        colour, places = COLOURS[number % len(COLOURS)], [at(x, y) for x, y in line]
        sheet.line(places, colour, 2.5, dashed=name in dashed)
        for place in places if name not in dashed else ():
            sheet.dot(place, colour)
        sheet.key(number, colour, name)
    return sheet.shown()


def _steps(most: float) -> list[float]:
    """From 0 to that value or above, in four to ten steps of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** floor(log10(most / 4))
    step = max(step * power for step in (1, 2, 5) if step * power <= most / 4)
    return [number * step for number in range(ceil(most / step) + 1)]


def _powers(least: float, most: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from that value or below to that one or above."""
    powers = range(floor(log10(least)), ceil(log10(most)) + 1)
    marks = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    below, above = max(m for m in marks if m <= least), min(m for m in marks if m >= most)
    return [mark for mark in marks if below <= mark <= above]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _between(start: Point, end: Point, share: float) -> Point:
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def _scaled(points: Sequence[Point]) -> list[Point]:
    return [(x * _SCALE, y * _SCALE) for x, y in points]
