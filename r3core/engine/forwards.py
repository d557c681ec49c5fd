"""Which forwards a turn takes: one where it holds everything, and what was found in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from r3core.engine.drawing import Branches, Own
from r3core.engine.state import Turn


@dataclass(frozen=True)
class Forward:
    """What texts put into one packed forward, and the pictures whose next step it computes."""

    turns: dict[str, Turn]
    drawings: Sequence[Own]


@dataclass
class Found:
    """Of each trajectory: what would be its next tokens, 1 + drafted, the likelihoods that it asked for, and its
    drawings with the velocity of each branch.
    """

    chosen: dict[str, list[int]] = field(default_factory=dict)
    likelihoods: dict[str, list[list[float]]] = field(default_factory=dict)
    velocities: dict[str, list[Branches]] = field(default_factory=dict)

    def add(self, drawings: Iterable[Own], velocities: Tensor) -> None:
        """Take in the velocities [n, d] of all branches of these drawings, in their order."""
        first = 0
        for key, drawing in drawings:
            size, count = drawing.x.shape[0], len(drawing.views_now())
            own = torch.split(velocities[first : first + count * size], size)
            self.velocities.setdefault(key, []).append((drawing, own))
            first += count * size


def forwards_of(
    texts: Mapping[str, Turn], judging: Sequence[str], drawings: Sequence[Own], most_rows: int, markers: int
) -> Iterator[Forward]:
    """Texts and drawings in as few forwards as hold them; one text forward or one drawing alone may be larger.

    Texts come first, for they compute what the drawings that begin see; in the last forward of texts the drawings join
    them. Those of them that judge pictures may be spread over several forwards.
    """
    turns: dict[str, Turn] = {}
    rows = 0
    for following in _text_forwards(texts, judging, most_rows):
        if turns:
            yield Forward(turns, ())
        turns, rows = following, sum(turn.rows for turn in following.values())
    held: list[Own] = []
    for own in drawings:
        more = own[1].rows_now(markers)
        if (turns or held) and rows + more > most_rows:
            yield Forward(turns, held)
            turns, held, rows = {}, [], 0
        held.append(own)
        rows += more
    if turns or held:
        yield Forward(turns, held)


def _text_forwards(texts: Mapping[str, Turn], judging: Sequence[str], most_rows: int) -> Iterator[dict[str, Turn]]:
    """One forward; those that judge join it as far as it holds them, and others after it hold the rest."""
    forward = {key: turn for key, turn in texts.items() if key not in judging}
    rows = sum(turn.rows for turn in forward.values())
    for key in judging:
        if forward and rows + texts[key].rows > most_rows:
            yield forward
            forward, rows = {}, 0
        forward[key] = texts[key]
        rows += texts[key].rows
    if forward:
        yield forward
