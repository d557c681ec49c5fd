"""The world of the small model: coloured shapes on a light background, at most one in each cell of a 3x3 grid.

    top left     top     top right
    left        middle       right
    bottom left bottom bottom right

A scene is the tuple of its things in reading order. Pixels are measured from the picture's top left corner, and the
centre of the first pixel lies at 0.5. `render.py` draws scenes, `parse.py` reads pictures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Final

Colour = tuple[int, int, int]

SIDE_PX: Final = 96
PITCH_PX: Final = 32
BACKGROUND: Final[Colour] = (244, 244, 244)
# Chosen for their distances: at least 90 grey levels between any two, over 190 to the background.
COLOURS: Final[dict[str, Colour]] = {
    "red": (218, 38, 56),
    "green": (42, 160, 82),
    "blue": (44, 98, 226),
    "yellow": (252, 214, 48),
    "purple": (146, 64, 196),
    "orange": (243, 122, 24),
}
SHAPES: Final = ("circle", "square", "triangle", "star", "heart")
# What is there and is no shape: half-drawn, two in one, or of several colours. Nobody asks for one.
BLOB: Final = "blob"
CELLS: Final = (
    "top left",
    "top",
    "top right",
    "left",
    "middle",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
RADIUS_PX: Final = (8.0, 11.0)
JITTER_PX: Final = 2.5


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape: its cell (0-8 in reading order), the centre of its box and half the side of that box, in pixels."""

    colour: str
    shape: str
    cell: int
    cx: float
    cy: float
    radius: float

    @property
    def kind(self) -> tuple[str, str]:
        """Colour and shape."""
        return self.colour, self.shape


Scene = tuple[Thing, ...]


def row(cell: int) -> int:
    """0 at the top, 2 at the bottom."""
    return cell // 3


def column(cell: int) -> int:
    """0 on the left, 2 on the right."""
    return cell % 3


def cell_centre(cell: int) -> tuple[float, float]:
    """x and y in pixels."""
    return PITCH_PX * (column(cell) + 0.5), PITCH_PX * (row(cell) + 0.5)


def place(colour: str, shape: str, cell: int, rng: Random | None = None) -> Thing:
    """A thing in a cell: of any size and a little off the centre, or, without `rng`, of middling size in the centre."""
    x, y = cell_centre(cell)
    if rng is None:
        return Thing(colour, shape, cell, x, y, sum(RADIUS_PX) / 2)
    dx, dy = rng.uniform(-JITTER_PX, JITTER_PX), rng.uniform(-JITTER_PX, JITTER_PX)
    return Thing(colour, shape, cell, x + dx, y + dy, rng.uniform(*RADIUS_PX))


def move(thing: Thing, cell: int) -> Thing:
    """The thing in another cell, as far off its centre as it was."""
    (x, y), (x_new, y_new) = cell_centre(thing.cell), cell_centre(cell)
    return replace(thing, cell=cell, cx=thing.cx - x + x_new, cy=thing.cy - y + y_new)


def in_reading_order(things: Iterable[Thing]) -> Scene:
    """The scene of these things; two in one cell are a ValueError."""
    scene = tuple(sorted(things, key=lambda thing: thing.cell))
    cells = [thing.cell for thing in scene]
    if len(set(cells)) < len(cells):
        names = ", ".join(CELLS[cell] for cell in cells)
        raise ValueError(f"two things stand in one cell ({names}); give each its own")
    return scene


def free_cells(things: Iterable[Thing]) -> list[int]:
    """The cells where nothing stands, in reading order."""
    taken = {thing.cell for thing in things}
    return [cell for cell in range(len(CELLS)) if cell not in taken]


def layout(things: Iterable[Thing]) -> tuple[tuple[str, str, int], ...]:
    """What can be said of a scene: colour, shape and cell of each thing, in reading order."""
    return tuple((thing.colour, thing.shape, thing.cell) for thing in in_reading_order(things))
