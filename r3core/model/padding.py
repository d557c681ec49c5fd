"""Which short pieces of a packed forward are attended in one call, padded to one length, and which keys each sees.

Padding computes what nobody reads, so pieces go together only while that stays small beside the rest. Rows of stored
pieces (texts) may differ in number and each sees its own past of the piece; pieces that leave no trace (noisy latents)
go together where they have the same number of rows, and see all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from r3core.model.one_thread import attended

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]

MOST_ROWS: Final = 64  # a longer piece has a call of its own
_WASTE: Final = 1.5  # the logits of a padded group over those that its pieces need
_SMALL: Final = 4096  # logits of a head: less than a call of its own costs


@dataclass(frozen=True)
class PieceRows:
    """One piece, in sequence order: `rows` queries that see cache rows [start, start + past) and their own.

    A stored piece's own K/V lie at [start + past, start + past + rows) of the cache.
    """

    start: int
    past: int
    rows: int
    causal: bool
    stored: bool

    @property
    def seen(self) -> int:
        """How many keys it sees, its own among them."""
        return self.past + self.rows


Placed = tuple[int, PieceRows]
"""A piece and its first row in sequence order."""


@dataclass(frozen=True)
class Together:
    """Pieces that are attended in one call. A place is a row of the padded call.

    `queries` [places] are the packed rows in the places (some twice, where a piece is shorter), `keys` [pieces * n] the
    cache rows that they see, `rows` the packed rows that come out of it and `back` the places where they stand.
    """

    pieces: int
    places: int
    queries: Tensor
    keys: Tensor
    rows: Tensor
    back: Tensor
    sees_own: bool  # whether their own keys are not in the cache, and stand before those of it
    visible: Tensor | None  # bool [pieces, 1, rows or 1, all keys]; None where everything is
    is_whole: bool  # whether it is the whole forward, and `back` in packed order
    _masks: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict)

    def mask(self, spread: int, dtype: torch.dtype) -> Tensor | None:
        """`visible` to be added to the logits of so many query heads laid end to end."""
        if self.visible is None:
            return None
        if (spread, dtype) not in self._masks:
            mask = torch.zeros(self.visible.shape, dtype=dtype).masked_fill_(~self.visible, -torch.inf)
            self._masks[spread, dtype] = mask if mask.shape[2] == 1 else mask.repeat(1, 1, spread, 1)
        return self._masks[spread, dtype]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, held_keys: Tensor, held_values: Tensor) -> Tensor:
        """One call for all pieces: q [N, Q, D], k and v [N, K, D] in packed order -> [rows, Q, D] in the order of
        `rows`.

        Query heads that read one key head are laid end to end: their keys need not be spread.
        """
        rows = self.places // self.pieces
        heads, (kv_heads, size) = q.shape[1], k.shape[1:]
        spread = heads // kv_heads
        queries = q.index_select(0, self.queries).view(self.pieces, rows, kv_heads, spread, size)
        queries = queries.permute(0, 2, 3, 1, 4).reshape(self.pieces, kv_heads, spread * rows, size)
        keys, values = self._seen(k, held_keys), self._seen(v, held_values)
        mask = self.mask(spread, q.dtype)
        out = attended(queries, keys, values, mask)
        out = out.view(self.pieces, kv_heads, spread, rows, size).permute(0, 3, 1, 2, 4).reshape(-1, heads, size)
        return out.index_select(0, self.back)

    def _seen(self, own: Tensor, held: Tensor) -> Tensor:
        """What the pieces see, padded to one length: [pieces, K, keys, D]."""
        seen = held.index_select(0, self.keys).view(self.pieces, -1, *held.shape[1:])
        if self.sees_own:  # they are not in the cache
            fresh = own.index_select(0, self.queries).view(self.pieces, -1, *own.shape[1:])
            seen = torch.cat((fresh, seen), dim=1)
        return seen.transpose(1, 2)


def attend_short(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """One short piece: its q [rows, Q, D] and all that it sees, k and v [keys, K, D] -> [rows, Q, D]; causal is aligned
    bottom-right.

    Query heads that read one key head are laid end to end, as in a group.
    """
    rows, heads, size = q.shape
    kv_heads = k.shape[1]
    spread = heads // kv_heads
    queries = q.view(rows, kv_heads, spread, size).permute(1, 2, 0, 3).reshape(1, kv_heads, spread * rows, size)
    mask = _causal(rows, k.shape[0], spread, q.dtype) if causal and rows > 1 else None
    keys, values = k.transpose(0, 1)[None], v.transpose(0, 1)[None]
    out = attended(queries, keys, values, mask)
    return out.view(kv_heads, spread, rows, size).permute(2, 0, 1, 3).reshape(rows, heads, size)


@lru_cache(maxsize=4)  # all layers of a forward ask for the same
def _causal(rows: int, keys: int, spread: int, dtype: torch.dtype) -> Tensor:
    """To be added to the logits: row i of each head sees all but the last rows - 1 - i keys."""
    return torch.full((rows, keys), -torch.inf, dtype=dtype).triu_(keys - rows + 1).repeat(spread, 1)


def together(pieces: Sequence[Placed], order: Numbers | None) -> tuple[tuple[Together, ...], tuple[Placed, ...]]:
    """Groups of pieces, and those that stay alone. `order` maps sequence order to packed order."""
    kinds: dict[tuple[bool, int], list[Placed]] = {}
    alone: list[Placed] = []
    for placed in pieces:
        piece = placed[1]
        if piece.rows > MOST_ROWS or (piece.causal and not piece.stored and piece.rows > 1):
            alone.append(placed)
        else:
            kinds.setdefault((piece.stored, 0 if piece.stored else piece.rows), []).append(placed)
    groups = [group for kind in kinds.values() for group in _alike(kind)]
    alone += [group[0] for group in groups if len(group) == 1]
    shared = [group for group in groups if len(group) > 1]
    total = sum(piece.rows for _, piece in pieces)
    return tuple(_grouped(group, order, total) for group in shared), tuple(alone)


def _alike(pieces: Iterable[Placed]) -> list[list[Placed]]:
    """Pieces in groups whose padding costs little, the longest first."""
    groups: list[list[Placed]] = []
    for placed in sorted(pieces, key=lambda p: (p[1].rows, p[1].seen), reverse=True):
        if groups and _is_worth_it([*groups[-1], placed]):
            groups[-1].append(placed)
        else:
            groups.append([placed])
    return groups


def _is_worth_it(group: Sequence[Placed]) -> bool:
    pieces = [piece for _, piece in group]
    padded = max(p.rows for p in pieces) * max(p.seen for p in pieces) * len(pieces)
    return padded <= _WASTE * sum(p.rows * p.seen for p in pieces) or padded <= _SMALL


def _grouped(group: Sequence[Placed], order: Numbers | None, total: int) -> Together:
    pieces = [piece for _, piece in group]
    stored = pieces[0].stored
    rows = max(piece.rows for piece in pieces)
    from_cache = max(piece.seen if stored else piece.past for piece in pieces)
    queries = np.empty((len(group), rows), np.int64)
    # Behind its own keys each sees its first again, and never another's: what is hidden may not be no number either.
    keys = np.repeat([[piece.start] for piece in pieces], from_cache, axis=1)
    visible = np.zeros((len(group), rows, from_cache), bool)
    real = np.zeros((len(group), rows), bool)
    for i, (first, piece) in enumerate(group):
        queries[i] = first + np.minimum(np.arange(rows), piece.rows - 1)
        count = piece.seen if stored else piece.past
        keys[i, :count] = piece.start + np.arange(count)
        last = piece.past + np.minimum(np.arange(rows), piece.rows - 1) if stored and piece.causal else count - 1
        visible[i] = np.arange(from_cache)[None, :] <= np.broadcast_to(last, rows)[:, None]
        real[i, : piece.rows] = True
    packed = queries if order is None else order[queries]
    places = np.flatnonzero(real)
    out = packed.ravel()[places]
    is_whole = len(out) == total
    if is_whole:
        places = places[np.argsort(out)]
    if not stored:
        own = np.ones((len(group), rows, rows), bool)
        visible = np.concatenate((own, visible), axis=2)
    if not (visible != visible[:, :1]).any():
        visible = visible[:, :1]
    return Together(
        pieces=len(group),
        places=queries.size,
        queries=torch.from_numpy(packed.ravel()),
        keys=torch.from_numpy(keys.ravel()),
        rows=torch.from_numpy(out),
        back=torch.from_numpy(places),
        sees_own=not stored,
        visible=None if visible.all() else torch.from_numpy(visible[:, None]),
        is_whole=is_whole,
    )
