"""The accuracy plot: right pictures by round, over all with its controls, and for each category."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from training import figures
from training.figures import ROUNDS, Share
from training.measured import Measured

_SCALE: Final = 2  # drawn twice as large as it is shown
_SIZE: Final = (1240, 620)
_PAPER: Final = (255, 255, 255)
_INK: Final = (24, 26, 30)
_GREY: Final = (104, 110, 120)
_RULE: Final = (226, 229, 233)
_LINE: Final = (28, 92, 170)
_BAND: Final = (212, 226, 243)
_CONTROL: Final = (196, 98, 16)
Point = tuple[float, float]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class _Panel:
    """A plot's place, in pixels of the shown picture, and how its axes are labelled."""

    left: float
    top: float
    width: float
    height: float
    text: int  # font size
    marks: tuple[int, ...]  # percent
    is_marked: bool = True  # whether the marks are named

    def at(self, round_: float, value: float) -> Point:
        """Where a share after a round lies; half a step is left free at either side."""
        step = self.width / (ROUNDS + 0.6)
        return self.left + step * (round_ + 0.3), self.top + self.height * (1 - value)


def accuracy_plot(measured: Measured) -> PILImage.Image:
    """The plot."""
    plot = _Plot()
    rows = figures.accuracy(measured.loops)
    main = _Panel(64, 104, 520, 440, 15, (0, 20, 40, 60, 80, 100))
    plot.title(64, 24, "Right pictures by round", f"{len(measured.loops)} prompts; shaded: 95 % interval")
    _overall(plot, main, rows.pop("all"), measured)
    plot.title(688, 24, "By category", f"{min(r[0].of for r in rows.values())} prompts each")
    for index, (name, shares) in enumerate(rows.items()):
        column, line = index % 3, index // 3
        panel = _Panel(688 + 182 * column, 132 + 164 * line, 158, 100, 13, (0, 50, 100), is_marked=column == 0)
        _category(plot, panel, name, shares)
    return plot.shown()


def _overall(plot: _Plot, panel: _Panel, shares: Sequence[Share], measured: Measured) -> None:
    plot.axes(panel, "round")
    plot.band(panel, [one.interval for one in shares])
    blind = [one.picked.value for one in measured.chance]
    plot.line(panel, blind, _CONTROL, dashed=True)
    plot.line(panel, [one.value for one in shares], _LINE)
    for index, one in enumerate(shares):
        x, y = panel.at(index, one.value)
        plot.text((x, y + 9 if index == 0 else y - 26), f"{100 * one.value:.0f} %", 15, _LINE, "ma")
    x, y = panel.at(ROUNDS / 2 + 0.5, blind[-1])
    plot.text((x, y + 10), "as many first pictures, one picked blindly", 14, _CONTROL, "ma")


def _category(plot: _Plot, panel: _Panel, name: str, shares: Sequence[Share]) -> None:
    plot.axes(panel, "")
    plot.text((panel.left, panel.top - 27), name, 15, _INK, "la")
    plot.band(panel, [one.interval for one in shares])
    plot.line(panel, [one.value for one in shares], _LINE)
    x, y = panel.at(0, shares[0].value)
    below = shares[0].value > 0.25
    plot.text((x + 4, y + (9 if below else -24)), f"{100 * shares[0].value:.0f} %", 13, _LINE, "la")
    x, y = panel.at(ROUNDS, shares[-1].value)
    plot.text((x + 6, y + (9 if shares[-1].value > 0.25 else -24)), f"{100 * shares[-1].value:.0f} %", 13, _LINE, "ra")


class _Plot:
    """A drawing in pixels of the shown picture."""

    def __init__(self) -> None:
        self._picture = PILImage.new("RGB", (_SIZE[0] * _SCALE, _SIZE[1] * _SCALE), _PAPER)
        self._draw = ImageDraw.Draw(self._picture)

    def shown(self) -> PILImage.Image:
        """The picture at its size."""
        return self._picture.resize(_SIZE, PILImage.Resampling.LANCZOS)

    def title(self, left: float, top: float, text: str, under: str) -> None:
        """A heading with a line below it."""
        self.text((left, top), text, 21, _INK, "la")
        self.text((left, top + 29), under, 14, _GREY, "la")

    def axes(self, panel: _Panel, under: str) -> None:
        """Rules at the marks, the rounds below."""
        for mark in panel.marks:
            _, y = panel.at(0, mark / 100)
            self._draw.line(_scaled([(panel.left, y), (panel.left + panel.width, y)]), _RULE, _SCALE)
            if panel.is_marked:
                unit = " %" if mark == panel.marks[-1] else ""
                self.text((panel.left - 8, y), f"{mark}{unit}", panel.text - 1, _GREY, "rm")
        for index in range(ROUNDS + 1):
            x, y = panel.at(index, 0)
            self.text((x, y + 7), f"{under} {index}".strip() if index == 0 else str(index), panel.text, _GREY, "ma")

    def band(self, panel: _Panel, intervals: Sequence[tuple[float, float]]) -> None:
        """The area between the ends of intervals."""
        above = [panel.at(i, high) for i, (_, high) in enumerate(intervals)]
        below = [panel.at(i, low) for i, (low, _) in enumerate(intervals)]
        self._draw.polygon(_scaled([*above, *reversed(below)]), _BAND)

    def line(self, panel: _Panel, values: Sequence[float], colour: Colour, *, dashed: bool = False) -> None:
        """A line with a dot for each round."""
        points = [panel.at(i, value) for i, value in enumerate(values)]
        for (x0, y0), (x1, y1) in pairwise(points):
            pieces = 8 if dashed else 1
            for piece in range(pieces):
                start, end = piece / pieces, (piece + (0.55 if dashed else 1)) / pieces
                ends = [(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t) for t in (start, end)]
                self._draw.line(_scaled(ends), colour, round(2.5 * _SCALE))
        for x, y in points:
            self._draw.ellipse(_scaled([(x - 3.5, y - 3.5), (x + 3.5, y + 3.5)]), colour)

    def text(self, at: Point, text: str, size: int, colour: Colour, anchor: str) -> None:
        """Letters, anchored as PIL says it."""
        font = ImageFont.load_default(size * _SCALE)
        self._draw.text(_scaled([at])[0], text, colour, font, anchor)


def _scaled(points: Sequence[Point]) -> list[Point]:
    return [(x * _SCALE, y * _SCALE) for x, y in points]
