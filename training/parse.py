"""Pictures to scenes: the exact reader of this world. It labels training data and scores; a served model never has it.

Each cell is read alone. Its colour is the palette colour towards which most of its ink points; how far each pixel has
gone from the background to that colour is its coverage. The coverage is moved so that its centroid lies in the
middle, and compared with a bank of drawn shapes (five shapes, eleven sizes, 25 sub-pixel offsets) by soft
intersection over union, for all cells at once in one matrix product. What is like none of them is a blob.

Letters: B pictures, M occupied cells, T templates, W = 28 pixels, the side of a template.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.render import Floats, Pixels, coverage
from training.world import BACKGROUND, BLOB, CELLS, COLOURS, PITCH_PX, SHAPES, SIDE_PX, Scene, Thing, column, row

_INK_DISTANCE: Final = 90.0  # grey levels from the background; less is noise or an edge
_LEAST_INK_PX: Final = 16  # a cell with less is empty
_LEAST_COVER: Final = 0.12  # coverage below is noise
_LEAST_LIKENESS: Final = 0.85  # soft IoU with the best template
_LEAST_PURITY: Final = 0.75  # share of the ink that is of the cell's colour
_WINDOW_PX: Final = 28
_PAD_PX: Final = 14
_RADII: Final = np.arange(7.0, 12.01, 0.5)
_BLOB_RADIUS_PX: Final = 9.5
_OFFSETS: Final = np.arange(-0.5, 0.51, 0.25)
_BATCH: Final = 64
_COLOUR_NAMES: Final = tuple(COLOURS)


@dataclass(frozen=True)
class Bank:
    """Templates as rows (T, W*W), their squared sums, and for each its shape, radius, and the way from the middle of
    the window to the centre of its box, in pixels.
    """

    rows: Floats
    squares: Floats
    shape: NDArray[np.int64]
    radius: NDArray[np.float64]
    dx: NDArray[np.float64]
    dy: NDArray[np.float64]


def parse(pictures: Pixels) -> list[Scene]:
    """What each picture (B, 96, 96, 3) shows. Blobs are things of the shape "blob"."""
    if pictures.shape[1:] != (SIDE_PX, SIDE_PX, 3) or pictures.dtype != np.uint8:
        raise ValueError(
            f"pictures of {pictures.dtype} {pictures.shape} cannot be read; give uint8 (n, {SIDE_PX}, {SIDE_PX}, 3)"
        )
    return [scene for start in range(0, len(pictures), _BATCH) for scene in _parse(pictures[start : start + _BATCH])]


@cache
def bank() -> Bank:
    """The templates, drawn once. In each the coverage's centroid lies within half a pixel of the window's middle."""
    shapes, radii, oy, ox = (
        grid.ravel() for grid in np.meshgrid(np.arange(len(SHAPES)), _RADII, _OFFSETS, _OFFSETS, indexing="ij")
    )
    below = np.array([_centroid_below_centre(shape) for shape in SHAPES])[shapes] * radii
    middle = PITCH_PX / 2
    drawn = np.concatenate(
        [coverage(s, (middle + ox)[shapes == i], (middle + oy - below)[shapes == i], radii[shapes == i])
         for i, s in enumerate(SHAPES)]
    )  # fmt: skip
    cut = (PITCH_PX - _WINDOW_PX) // 2
    rows = np.ascontiguousarray(drawn[:, cut:-cut, cut:-cut]).reshape(len(drawn), -1)
    return Bank(rows, (rows * rows).sum(1), shapes, radii, ox, oy - below)


def _centroid_below_centre(shape: str) -> float:
    """How far, in radii, the centroid of a shape lies below the centre of its box."""
    middle = np.array([PITCH_PX / 2])
    drawn = coverage(shape, middle, middle, np.array([10.0]))[0]
    heights = np.arange(PITCH_PX) + 0.5 - PITCH_PX / 2
    return float((drawn * heights[:, None]).sum() / drawn.sum() / 10.0)


def _parse(pictures: Pixels) -> list[Scene]:
    side = SIDE_PX // PITCH_PX
    away = pictures.astype(np.float32) - np.array(BACKGROUND, dtype=np.float32)
    cells = away.reshape(-1, side, PITCH_PX, side, PITCH_PX, 3).transpose(0, 1, 3, 2, 4, 5)
    cells = cells.reshape(-1, PITCH_PX, PITCH_PX, 3)
    ink = (cells * cells).sum(-1) > _INK_DISTANCE**2
    occupied = np.flatnonzero(ink.sum((1, 2)) >= _LEAST_INK_PX)
    scenes: list[list[Thing]] = [[] for _ in pictures]
    if len(occupied):
        for index, thing in zip(occupied, _things(cells[occupied], ink[occupied], occupied % len(CELLS)), strict=True):
            scenes[index // len(CELLS)].append(thing)
    return [tuple(scene) for scene in scenes]


def _things(away: Floats, ink: NDArray[np.bool_], cell: NDArray[np.int64]) -> list[Thing]:
    """The thing in each of M occupied cells, from its difference to the background (M, 32, 32, 3)."""
    colour, purity, cover = _colours(away, ink)
    window, x, y = _centred(cover)
    best, likeness = _match(window)
    found = bank()
    sure = (likeness >= _LEAST_LIKENESS) & (purity >= _LEAST_PURITY)
    x, y = x + np.where(sure, found.dx[best], 0), y + np.where(sure, found.dy[best], 0)
    things = []
    for m, c in enumerate(cell.tolist()):
        shape, radius = (SHAPES[found.shape[best[m]]], found.radius[best[m]]) if sure[m] else (BLOB, _BLOB_RADIUS_PX)
        left, top = column(c) * PITCH_PX, row(c) * PITCH_PX
        name = _COLOUR_NAMES[colour[m]]
        things.append(Thing(name, shape, c, float(left + x[m]), float(top + y[m]), float(radius)))
    return things


def _colours(away: Floats, ink: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Floats, Floats]:
    """For each cell its colour, the share of its ink that is of that colour, and the coverage (M, 32, 32)."""
    palette = np.array([COLOURS[name] for name in _COLOUR_NAMES], dtype=np.float32)
    steps = palette - np.array(BACKGROUND, dtype=np.float32)
    lengths = np.sqrt((steps * steps).sum(1))
    along = away @ (steps / lengths[:, None]).T  # (M, 32, 32, 6): how far each pixel went towards each colour
    nearest = along.argmax(-1)
    weight = np.where(ink, np.maximum(along.max(-1), 0), 0)
    votes = np.stack([(weight * (nearest == k)).sum((1, 2)) for k in range(len(steps))], 1)
    colour = votes.argmax(1)
    purity = votes.max(1) / np.maximum(votes.sum(1), 1e-6)
    own = np.take_along_axis(along, colour[:, None, None, None], -1)[..., 0] / lengths[colour][:, None, None]
    return colour, purity.astype(np.float32), np.where(own < _LEAST_COVER, 0, np.clip(own, 0, 1)).astype(np.float32)


def _centred(cover: Floats) -> tuple[Floats, Floats, Floats]:
    """Windows (M, W*W) around the pixel nearest to each centroid, and that pixel's corner (x, y) in the cell."""
    at = np.arange(PITCH_PX, dtype=np.float32) + 0.5
    mass = cover.sum((1, 2))
    x = np.rint((cover.sum(1) * at).sum(1) / mass)
    y = np.rint((cover.sum(2) * at).sum(1) / mass)
    padded = np.pad(cover, ((0, 0), (_PAD_PX, _PAD_PX), (_PAD_PX, _PAD_PX)))
    span = np.arange(_WINDOW_PX) + _PAD_PX - _WINDOW_PX // 2
    rows = (y.astype(np.int64)[:, None] + span)[:, :, None]
    columns = (x.astype(np.int64)[:, None] + span)[:, None, :]
    window = padded[np.arange(len(cover))[:, None, None], rows, columns]
    return window.reshape(len(cover), -1), x, y


def _match(window: Floats) -> tuple[NDArray[np.int64], Floats]:
    """The template most like each window, and how like it is: a.t / (a.a + t.t - a.t), 1 where they are equal."""
    found = bank()
    common = window @ found.rows.T
    likeness = common / ((window * window).sum(1)[:, None] + found.squares - common)
    best = likeness.argmax(1)
    return best, likeness[np.arange(len(window)), best]
