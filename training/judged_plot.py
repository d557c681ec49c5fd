"""The plot of docs/judge.md: how often each strategy is right, by the pictures that it draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from training.figures import Json

_SCALE: Final = 2  # drawn twice as large as it is shown
_SIZE: Final = (900, 560)
_LEFT, _TOP, _WIDTH, _HEIGHT = 70, 90, 780, 390
_MARK: Final = 0.05  # of the upright axis
_PAPER: Final = (255, 255, 255)
_INK: Final = (24, 26, 30)
_GREY: Final = (104, 110, 120)
_RULE: Final = (226, 229, 233)
Colour = tuple[int, int, int]
Point = tuple[float, float]
# By kind: its words in the key, its colour, its mark. Marks differ too, for those who do not tell the colours apart.
_KINDS: Final[dict[str, tuple[str, Colour, str]]] = {
    "text": ("text stopping, by round limit", (28, 92, 170), "circle"),
    "score": ("a score that is reached", (196, 98, 16), "square"),
    "both": ("text and score", (20, 128, 90), "diamond"),
    "best of n": ("best of n first pictures", (140, 60, 150), "cross"),
    "search": ("candidates, going back", (190, 30, 60), "triangle"),
}


def judged_plot(record: Json) -> PILImage.Image:
    """The plot of a measurement's JSON."""
    picture = PILImage.new("RGB", (_SIZE[0] * _SCALE, _SIZE[1] * _SCALE), _PAPER)
    draw = ImageDraw.Draw(picture)
    strategies = record["strategies"]
    low = max(0.0, math.floor(10 * min(one["right"]["share"] for one in strategies)) / 10)
    most = max(one["images"] for one in strategies)

    def at(one: Json) -> Point:
        across = (one["images"] - 0.8) / (most - 0.6)
        return _LEFT + _WIDTH * across, _TOP + _HEIGHT * (1 - (one["right"]["share"] - low) / (1 - low))

    _text(draw, (_LEFT, 22), "Right results by pictures drawn", 21, _INK, "la")
    _text(draw, (_LEFT, 51), f"{record['prompts']['test']} held-out prompts, the small model", 14, _GREY, "la")
    _axes(draw, low, most)
    line = [at(one) for one in strategies if one["kind"] == "text"]
    for start, end in pairwise(line):
        draw.line(_scaled([start, end]), _KINDS["text"][1], round(2 * _SCALE))
    for one in reversed(strategies):
        _, colour, mark = _KINDS[one["kind"]]
        _mark(draw, at(one), colour, mark)
    for row, (words, colour, mark) in enumerate(_KINDS.values()):
        y = _TOP + _HEIGHT - 24 * (len(_KINDS) - row) - 8
        _mark(draw, (_LEFT + _WIDTH - 250, y), colour, mark)
        _text(draw, (_LEFT + _WIDTH - 236, y), words, 14, _INK, "lm")
    return picture.resize(_SIZE, PILImage.Resampling.LANCZOS)


def _axes(draw: ImageDraw.ImageDraw, low: float, most: float) -> None:
    steps = round((1 - low) / _MARK)
    for step in range(steps + 1):
        y = _TOP + _HEIGHT * (1 - step / steps)
        draw.line(_scaled([(_LEFT, y), (_LEFT + _WIDTH, y)]), _RULE, _SCALE)
        _text(draw, (_LEFT - 8, y), f"{100 * (low + (1 - low) * step / steps):.0f} %", 14, _GREY, "rm")
    for count in range(1, round(most) + 1):
        x = _LEFT + _WIDTH * (count - 0.8) / (most - 0.6)
        _text(draw, (x, _TOP + _HEIGHT + 8), str(count), 14, _GREY, "ma")
    _text(draw, (_LEFT + _WIDTH / 2, _TOP + _HEIGHT + 32), "pictures a prompt", 14, _GREY, "ma")


def _mark(draw: ImageDraw.ImageDraw, at: Point, colour: Colour, mark: str) -> None:
    x, y, r = at[0], at[1], 5.0
    corners: dict[str, Sequence[Point]] = {
        "square": [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)],
        "diamond": [(x, y - r - 1), (x + r + 1, y), (x, y + r + 1), (x - r - 1, y)],
        "triangle": [(x, y - r - 1), (x + r + 1, y + r), (x - r - 1, y + r)],
    }
    if mark == "circle":
        draw.ellipse(_scaled([(x - r, y - r), (x + r, y + r)]), colour)
    elif mark == "cross":
        for ends in ([(x - r, y - r), (x + r, y + r)], [(x - r, y + r), (x + r, y - r)]):
            draw.line(_scaled(ends), colour, round(2.5 * _SCALE))
    else:
        draw.polygon(_scaled(corners[mark]), colour)


def _text(draw: ImageDraw.ImageDraw, at: Point, text: str, size: int, colour: Colour, anchor: str) -> None:
    draw.text(_scaled([at])[0], text, colour, ImageFont.load_default(size * _SCALE), anchor)


def _scaled(points: Sequence[Point]) -> list[Point]:
    return [(x * _SCALE, y * _SCALE) for x, y in points]
