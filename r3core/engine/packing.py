"""Packing: segments of several sequences laid end to end for one forward.

A feed is one segment of one context: a text (causal, positions rise), or a picture (seen whole, one position for all
its rows, markers included). Packed rows lie as `model.layers.Rows` says: rows of text passes, then the markers around
latents, then the latents, so that each expert's rows are one slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from r3core.model.attention import Packing, PieceRows
from r3core.model.layers import Rows


@dataclass(frozen=True)
class Cursor:
    """Where a context stands: its first cache row, how many rows it has, and its next rope position."""

    start: int
    length: int = 0
    position: int = 0

    def after(self, feed: Feed) -> Cursor:
        """Where it stands once `feed` is stored: a picture takes one position, a text one for each row."""
        moved = feed.rows if feed.causal else 1
        return Cursor(self.start, self.length + feed.rows, self.position + moved)


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
class Packed:
    """What a forward takes: hidden [N, H], how its rows lie, rope positions [N], and its pieces.

    `firsts` gives, for each feed in its order, the first packed row of its `und` part.
    """

    hidden: Tensor
    rows: Rows
    positions: Tensor
    packing: Packing
    firsts: tuple[int, ...]


def pack(feeds: Sequence[Feed]) -> Packed:
    """Lay feeds end to end; feeds of one context may follow each other in one forward."""
    device = feeds[0].und.device
    texts = [f for f in feeds if f.gen is None]
    drawn = [f for f in feeds if f.gen is not None]
    rows = _rows(texts, drawn)
    firsts = _firsts(feeds, rows)
    gens = [f.gen for f in drawn if f.gen is not None]
    positions = [_positions(f, f.und.shape[0], device) for f in (*texts, *drawn)]
    positions += [_positions(f, g.shape[0], device) for f, g in zip(drawn, gens, strict=True)]
    order = None if not drawn else _order(feeds, firsts, rows, device)
    stored_from, stored_to = _stores(feeds, order, device)
    return Packed(
        hidden=torch.cat([*(f.und for f in (*texts, *drawn)), *gens]),
        rows=rows,
        positions=torch.cat(positions),
        packing=Packing(
            tuple(PieceRows(f.at.start, f.at.length, f.rows, f.causal, f.stored) for f in feeds),
            order,
            stored_from,
            stored_to,
        ),
        firsts=firsts,
    )


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


def _positions(feed: Feed, count: int, device: torch.device) -> Tensor:
    if feed.causal:
        return torch.arange(feed.at.position, feed.at.position + count, device=device)
    return torch.full((count,), feed.at.position, device=device)


def _order(feeds: Sequence[Feed], firsts: tuple[int, ...], rows: Rows, device: torch.device) -> Tensor:
    """From sequence order (start marker, latents, end marker) to packed order."""
    parts, latent = [], rows.und
    for feed, first in zip(feeds, firsts, strict=True):
        if feed.gen is None:
            parts.append(torch.arange(first, first + feed.rows, device=device))
            continue
        count = feed.gen.shape[0]
        parts.append(torch.tensor([first], device=device))
        parts.append(torch.arange(latent, latent + count, device=device))
        parts.append(torch.tensor([first + 1], device=device))
        latent += count
    return torch.cat(parts)


def _stores(feeds: Sequence[Feed], order: Tensor | None, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """Which packed rows are kept, and in which cache rows."""
    if not any(f.stored for f in feeds):
        return None, None
    places = [torch.arange(f.at.start + f.at.length, f.at.start + f.at.length + f.rows, device=device) for f in feeds]
    if order is None and all(f.stored for f in feeds):
        return None, torch.cat(places)
    kept, first = [], 0
    for feed in feeds:
        if feed.stored:
            kept.append(torch.arange(first, first + feed.rows, device=device))
        first += feed.rows
    sequence = torch.cat(kept)
    source = sequence if order is None else order[sequence]
    return source, torch.cat([p for p, f in zip(places, feeds, strict=True) if f.stored])
