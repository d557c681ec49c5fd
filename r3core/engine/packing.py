"""Packing: segments of several sequences laid end to end for one forward.

A feed is one segment of one context: a text (causal, positions rise), or a picture (seen whole, one position for all
its rows, markers included). Packed rows lie as `model.layers.Rows` says: rows of text passes, then the markers around
latents, then the latents, so that each expert's rows are one slice. Row numbers are counted on the host and go
to the device in one copy each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from r3core.model.attention import Packing
from r3core.model.layers import Rows
from r3core.model.padding import PieceRows
from r3core.model.placing import to_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]

_REMEMBERED: Final = 8  # layouts: the pictures that are drawn change little from turn to turn


@dataclass(frozen=True)
class Cursor:
    """Where a context stands: its first cache row, how many rows it has, and its next rope position."""

    start: int
    length: int = 0
    position: int = 0

    def after(self, feed: Feed) -> Cursor:
        """Where it stands once `feed` is stored: a picture takes one position, a text one for each row."""
        if feed.causal:
            return self.past(feed.rows)
        return Cursor(self.start, self.length + feed.rows, self.position + 1)

    def past(self, rows: int) -> Cursor:
        """Where it stands after so many rows of text."""
        return Cursor(self.start, self.length + rows, self.position + rows)


@dataclass(frozen=True)
class Feed:
    """One segment: `und` [n, H] are rows of the understanding expert, `gen` [m, H] those of the drawing expert.

    Where there are latents, `und` holds the two markers around them. A feed that is not stored leaves no trace.
    """

    at: Cursor
    und: Tensor
    gen: Tensor | None = None
    causal: bool = False
    stored: bool = True

    @property
    def rows(self) -> int:
        """All rows of the segment."""
        return self.und.shape[0] + (0 if self.gen is None else self.gen.shape[0])


@dataclass(frozen=True)
class Layout:
    """How the rows of a forward lie, their rope positions [N], and its pieces.

    `firsts` gives, for each feed in its order, the first packed row of its `und` part.
    """

    rows: Rows
    positions: Tensor
    packing: Packing
    firsts: tuple[int, ...]


@dataclass(frozen=True)
class Packed(Layout):
    """What a forward takes: hidden [N, H] and its layout."""

    hidden: Tensor


class Layouts:
    """Layouts of forwards that come again and again, as those of a picture's denoising steps do."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[object, ...], Layout] = OrderedDict()

    def pack(self, feeds: Sequence[Feed]) -> Packed:
        """What `pack` gives; counted anew only where feeds stand otherwise than the last few times."""
        key = tuple(
            (f.at, f.und.shape[0], None if f.gen is None else f.gen.shape[0], f.causal, f.stored) for f in feeds
        )
        layout = self._known.pop(key, None) or _layout(feeds)
        self._known[key] = layout
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return _packed(feeds, layout)


def pack(feeds: Sequence[Feed]) -> Packed:
    """Lay feeds end to end; feeds of one context may follow each other in one forward."""
    return _packed(feeds, _layout(feeds))


def _packed(feeds: Sequence[Feed], layout: Layout) -> Packed:
    unds = [*(f.und for f in feeds if f.gen is None), *(f.und for f in feeds if f.gen is not None)]
    hidden = torch.cat([*unds, *(f.gen for f in feeds if f.gen is not None)])
    return Packed(layout.rows, layout.positions, layout.packing, layout.firsts, hidden)


def _layout(feeds: Sequence[Feed]) -> Layout:
    device = feeds[0].und.device
    texts = [f for f in feeds if f.gen is None]
    drawn = [f for f in feeds if f.gen is not None]
    rows = _rows(texts, drawn)
    firsts = _firsts(feeds, rows)
    gens = [f.gen for f in drawn if f.gen is not None]
    positions = [_positions(f, f.und.shape[0]) for f in (*texts, *drawn)]
    positions += [_positions(f, g.shape[0]) for f, g in zip(drawn, gens, strict=True)]
    order = _order(feeds, firsts, rows) if drawn else None
    stored_from, stored_to = _stores(feeds, order)
    return Layout(
        rows=rows,
        positions=to_device(np.concatenate(positions), device),
        packing=Packing(
            tuple(PieceRows(f.at.start, f.at.length, f.rows, f.causal, f.stored) for f in feeds),
            _placed(order, device),
            _placed(stored_from, device),
            _placed(stored_to, device),
            device,
        ),
        firsts=firsts,
    )


def _placed(numbers: Numbers | None, device: torch.device) -> Tensor | None:
    return None if numbers is None else to_device(numbers, device)


def _rows(texts: list[Feed], drawn: list[Feed]) -> Rows:
    lifted = sum(f.und.shape[0] for f in texts)
    und = lifted + sum(f.und.shape[0] for f in drawn)
    return Rows(lifted, und, und + sum(f.gen.shape[0] for f in drawn if f.gen is not None))


def _firsts(feeds: Sequence[Feed], rows: Rows) -> tuple[int, ...]:
    firsts, text, marker = [], 0, rows.lifted
    for feed in feeds:
        if feed.gen is None:
            firsts.append(text)
            text += feed.und.shape[0]
        else:
            firsts.append(marker)
            marker += feed.und.shape[0]
    return tuple(firsts)


def _positions(feed: Feed, count: int) -> Numbers:
    return feed.at.position + (np.arange(count) if feed.causal else np.zeros(count, dtype=np.int64))


def _order(feeds: Sequence[Feed], firsts: tuple[int, ...], rows: Rows) -> Numbers:
    """From sequence order (start marker, latents, end marker) to packed order."""
    parts, latent = [], rows.und
    for feed, first in zip(feeds, firsts, strict=True):
        if feed.gen is None:
            parts.append(np.arange(first, first + feed.rows))
            continue
        count = feed.gen.shape[0]
        parts += [np.array([first]), np.arange(latent, latent + count), np.array([first + 1])]
        latent += count
    return np.concatenate(parts)


def _stores(feeds: Sequence[Feed], order: Numbers | None) -> tuple[Numbers | None, Numbers | None]:
    """Which packed rows are kept (None where all are, in order), and in which cache rows (None where none are)."""
    if not any(f.stored for f in feeds):
        return None, None
    places, kept, first = [], [], 0
    for feed in feeds:
        if feed.stored:
            places.append(feed.at.start + feed.at.length + np.arange(feed.rows))
            kept.append(first + np.arange(feed.rows))
        first += feed.rows
    to = np.concatenate(places)
    if order is None:
        return (None if all(f.stored for f in feeds) else np.concatenate(kept)), to
    return order[np.concatenate(kept)], to
