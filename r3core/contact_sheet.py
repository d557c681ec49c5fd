"""A contact sheet: the rounds of a request side by side, each with the edit that made it and what was said of it.

One row a trajectory. Small pictures are enlarged by whole factors without smoothing, so that every pixel of a 64-pixel
picture shows; large ones are reduced. Long texts are cut: the sheet is for looking, the whole of them stands elsewhere.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Final

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from r3core.types import Round, Trajectory, Verdict

if TYPE_CHECKING:
    from r3core.events import Pixels

Pictures = Mapping[tuple[int, int], "Pixels"]  # (trajectory, round) -> uint8 [height, width, 3]
Colour = tuple[int, int, int]
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_MARGIN: Final = 32
_GAP: Final = 24
_COLUMN: Final = 320  # the narrowest a column may be
_LARGEST: Final = 512  # the longest side that a picture is shown with
_TITLE, _TEXT, _SMALL = 26, 17, 15
_LEADING: Final = 1.32  # of the font's size, from line to line

_OWN_LETTERS: Final = re.compile(r"[ -~…·“”‘’]*")
_WIDE_FONTS: Final = (
    "NotoSansCJK-Regular.ttc",
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "Arial Unicode.ttf",
    "arial.ttf",
)

_PAPER: Final = (255, 255, 255)
_INK: Final = (24, 26, 30)
_GREY: Final = (104, 110, 120)
_RULE: Final = (222, 225, 230)
_COLOUR_OF: Final[dict[Verdict, Colour]] = {
    Verdict.EDIT: (28, 92, 170),
    Verdict.SATISFIED: (24, 122, 70),
    Verdict.MALFORMED: (176, 52, 32),
}
_ENDED: Final = {
    "satisfied": "satisfied",
    "max_rounds": "round limit reached",
    "malformed": "malformed reflection",
    "score": "ended by its scores",
    "budget": "budget spent",
    "done": "done",
    "deadline": "deadline passed",
    "stopped": "stopped",
    None: "not finished",
}


@dataclass(frozen=True)
class _Line:
    """One line of text and how it looks."""

    text: str
    size: int
    colour: Colour

    @property
    def height(self) -> int:
        return round(self.size * _LEADING) if self.text else round(self.size * 0.4)


@dataclass(frozen=True)
class _Cell:
    """A picture as it is shown, and the lines under it."""

    picture: PILImage.Image
    lines: tuple[_Line, ...]


@dataclass(frozen=True)
class Compared:
    """Pictures of one prompt, each with a word on it and whether that is good news."""

    title: str
    pictures: Sequence[tuple[PILImage.Image, str, bool]]


def contact_sheet(trajectories: Sequence[Trajectory], pictures: Pictures, about: str) -> PILImage.Image:
    """The sheet of a request's trajectories; `about` is a line on how they were made."""
    shown = [_cells(trajectory, pictures) for trajectory in trajectories]
    inner = _inner_width(shown)
    captions = [_caption(trajectory, inner, alone=len(trajectories) == 1) for trajectory in trajectories]
    return _drawn(trajectories[0].request.prompt, about, captions, shown)


def side_by_side(rows: Sequence[Compared], heading: str, about: str) -> PILImage.Image:
    """A sheet of prompts, their pictures beside each other."""
    shown = [[_compared(*picture) for picture in row.pictures] for row in rows]
    inner = _inner_width(shown)
    captions = [_wrapped(row.title, inner, _TEXT, _INK, most=2) for row in rows]
    return _drawn(heading, about, captions, shown)


def _compared(picture: PILImage.Image, said: str, is_good: bool) -> _Cell:
    enlarged = _shown(picture)
    colour = _COLOUR_OF[Verdict.SATISFIED if is_good else Verdict.MALFORMED]
    return _Cell(enlarged, tuple(_wrapped(said, max(enlarged.width, _COLUMN), _SMALL, colour, most=4)))


def _column(shown: Sequence[Sequence[_Cell]]) -> int:
    return max([_COLUMN, *(cell.picture.width for cells in shown for cell in cells)])


def _inner_width(shown: Sequence[Sequence[_Cell]]) -> int:
    columns = max((len(cells) for cells in shown), default=1) or 1
    return max(columns * _column(shown) + (columns - 1) * _GAP, 2 * _COLUMN + _GAP)


def _drawn(
    heading: str, about: str, captions: Sequence[Sequence[_Line]], shown: Sequence[Sequence[_Cell]]
) -> PILImage.Image:
    """Heading, then a row each: its caption, and its pictures with their lines under them."""
    inner, column = _inner_width(shown), _column(shown)
    width = inner + 2 * _MARGIN
    head = [*_wrapped(heading, inner, _TITLE, _INK, most=4), *_wrapped(about, inner, _SMALL, _GREY, most=2)]
    height = 2 * _MARGIN + _height(head)
    height += sum(_row_height(caption, cells) for caption, cells in zip(captions, shown, strict=True))
    sheet = PILImage.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _write(draw, head, _MARGIN, _MARGIN)
    for caption, cells in zip(captions, shown, strict=True):
        draw.line((_MARGIN, top + _GAP // 2, width - _MARGIN, top + _GAP // 2), _RULE)
        under = _write(draw, caption, _MARGIN, top + _GAP) + _GAP // 2
        for number, cell in enumerate(cells):
            left = _MARGIN + number * (column + _GAP)
            sheet.paste(cell.picture, (left, under))
            _write(draw, cell.lines, left, under + cell.picture.height + _GAP // 2)
        top += _row_height(caption, cells)
    return sheet


def _row_height(caption: Sequence[_Line], cells: Sequence[_Cell]) -> int:
    tallest = max((cell.picture.height + _GAP // 2 + _height(cell.lines) for cell in cells), default=0)
    return _GAP + _height(caption) + _GAP // 2 + tallest


def _caption(trajectory: Trajectory, width: int, *, alone: bool) -> list[_Line]:
    refined = len([r for r in trajectory.rounds if r.instruction is not None])
    what = f"{refined} refinement{'' if refined == 1 else 's'}" if trajectory.rounds else "no picture"
    head = f"seed {trajectory.seed} · {what} · {_ENDED[trajectory.stop_reason]}"
    lines = [_Line(head if alone else f"Trajectory {trajectory.index} · {head}", _TEXT, _INK)]
    if trajectory.reasoning:
        lines += _wrapped(f"Plan: {_plain(trajectory.reasoning)}", width, _SMALL, _GREY, most=4)
    return lines


def _cells(trajectory: Trajectory, pictures: Pictures) -> list[_Cell]:
    cells = []
    for round_ in trajectory.rounds:
        pixels = pictures.get((trajectory.index, round_.index))
        if pixels is not None:
            picture = _shown(PILImage.fromarray(pixels))
            is_given = round_.index == 0 and trajectory.request.given_image
            lines = _about(round_, max(picture.width, _COLUMN), is_given=is_given)
            cells.append(_Cell(picture, tuple(lines)))
    return cells


def _about(round_: Round, width: int, *, is_given: bool) -> Iterator[_Line]:
    yield _Line("Round 0 · the given picture" if is_given else f"Round {round_.index}", _TEXT, _INK)
    if round_.candidates:
        yield _Line(f"Candidate {round_.chosen}, the best of {len(round_.candidates)}", _SMALL, _GREY)
    if round_.scores:
        told = (f"{s.scorer} {'unread' if s.value is None else format(s.value, '.3g')}" for s in round_.scores)
        yield _Line(" · ".join(told), _SMALL, _INK)
    if round_.base is not None and round_.base != round_.index - 1:
        yield _Line(f"Made from round {round_.base}", _SMALL, _INK)
    if round_.instruction is not None:
        yield from _wrapped(f"Edit: {round_.instruction or '(empty)'}", width, _SMALL, _INK, most=6)
    for number, said in enumerate(round_.reflections, 1):
        yield _Line("", _SMALL, _INK)
        of = f" {number} of {len(round_.reflections)}" if len(round_.reflections) > 1 else ""
        yield _Line(f"Reflection{of}: {said.verdict}", _SMALL, _COLOUR_OF[said.verdict])
        yield from _wrapped(said.thought, width, _SMALL, _GREY, most=8)
        if said.instruction:
            yield from _wrapped(said.instruction, width, _SMALL, _COLOUR_OF[said.verdict], most=5)


def _shown(picture: PILImage.Image) -> PILImage.Image:
    longest = max(picture.size)
    if longest > _LARGEST:
        scale = _LARGEST / longest
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        return picture.resize(size, PILImage.Resampling.LANCZOS)
    factor = max(1, _COLUMN // longest)
    return picture.resize((picture.width * factor, picture.height * factor), PILImage.Resampling.NEAREST)


def _plain(reasoning: str) -> str:
    return reasoning.replace("<think>", "").replace("</think>", "").strip()


def _wrapped(text: str, width: int, size: int, colour: Colour, most: int) -> list[_Line]:
    """The text in lines of at most `width` pixels, cut with … after `most` of them."""
    font = _font(size, text)
    broken = (line for paragraph in text.splitlines() for line in _broken(paragraph, width, font))
    lines = list(islice(broken, most + 1))
    if len(lines) > most:
        lines = [*lines[: most - 1], _cut(lines[most - 1] + " …", width, font)]
    return [_Line(line, size, colour) for line in lines]


def _broken(paragraph: str, width: int, font: _Font) -> Iterator[str]:
    """Lines broken between words, and inside a word that is longer than a line."""
    line = ""
    for word in paragraph.split():
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            yield line
        line = word
        while font.getlength(line) > width:
            fits = _fitting(line, width, font)
            yield line[:fits]
            line = line[fits:]
    if line:
        yield line


def _fitting(word: str, width: int, font: _Font) -> int:
    """How many of the word's first letters fit a line, at least one."""
    return max(1, bisect_right(range(len(word)), width, key=lambda n: math.ceil(font.getlength(word[:n]))) - 1)


def _cut(line: str, width: int, font: _Font) -> str:
    while len(line) > 2 and font.getlength(line) > width:
        line = line[:-3].rstrip() + " …"
    return line


def _height(lines: Sequence[_Line]) -> int:
    return sum(line.height for line in lines)


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[_Line], left: int, top: int) -> int:
    for line in lines:
        draw.text((left, top), line.text, line.colour, _font(line.size, line.text))
        top += line.height
    return top


def _font(size: int, text: str) -> _Font:
    """PIL's own, so that a sheet looks the same everywhere, but it has English letters only: for others a system's."""
    wide = None if _OWN_LETTERS.fullmatch(text) else _system_font(size)
    return wide or _own_font(size)


@lru_cache(maxsize=8)
def _own_font(size: int) -> _Font:
    return ImageFont.load_default(size)


@lru_cache(maxsize=8)
def _system_font(size: int) -> _Font | None:
    for name in _WIDE_FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return None
