"""Segments laid end to end: each row keeps its segment, its position and its place in the cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from r3core.engine.packing import Cursor, Feed, Packed, pack

WIDTH = 2


def rows(first: int, count: int) -> Tensor:
    """`count` rows that carry their numbers from `first` on."""
    return torch.arange(first, first + count, dtype=torch.float32)[:, None].expand(count, WIDTH)


@dataclass(frozen=True)
class Kind:
    """What a segment is made of."""

    und: int
    gen: int
    causal: bool
    stored: bool


texts = st.builds(Kind, st.integers(1, 6), st.just(0), st.booleans(), st.booleans())
drawn = st.builds(Kind, st.just(2), st.integers(1, 6), st.just(False), st.booleans())
kinds = st.lists(texts | drawn, min_size=1, max_size=6)


def feeds_of(kinds: list[Kind]) -> list[Feed]:
    """Feeds of contexts of their own, every row numbered in sequence order."""
    feeds, number = [], 0
    for index, kind in enumerate(kinds):
        at = Cursor(start=100 * index, length=7 * index % 5, position=3 * index)
        if kind.gen:
            und = torch.cat((rows(number, 1), rows(number + 1 + kind.gen, 1)))
            feeds.append(Feed(at, und, rows(number + 1, kind.gen), kind.causal, kind.stored))
        else:
            feeds.append(Feed(at, rows(number, kind.und), None, kind.causal, kind.stored))
        number += kind.und + kind.gen
    return feeds


def in_sequence_order(packed: Packed, values: Tensor) -> Tensor:
    return values if packed.packing.order is None else values[packed.packing.order]


@given(kinds)
def test_every_row_is_there_once_and_each_expert_has_one_slice(kinds: list[Kind]) -> None:
    packed = pack(feeds_of(kinds))
    numbers = in_sequence_order(packed, packed.hidden[:, 0])
    assert numbers.tolist() == list(range(len(numbers)))
    assert packed.rows.lifted == sum(k.und for k in kinds if not k.gen)
    assert packed.rows.und == sum(k.und for k in kinds)
    assert packed.rows.total == len(numbers) == packed.hidden.shape[0]
    back = packed.packing.back
    assert back is None or torch.equal(in_sequence_order(packed, packed.hidden)[back], packed.hidden)


@given(kinds)
def test_a_picture_has_one_position_and_a_text_rises(kinds: list[Kind]) -> None:
    feeds = feeds_of(kinds)
    packed = pack(feeds)
    positions = in_sequence_order(packed, packed.positions).tolist()
    for feed in feeds:
        own, positions = positions[: feed.rows], positions[feed.rows :]
        first = feed.at.position
        assert own == (list(range(first, first + feed.rows)) if feed.causal else [first] * feed.rows)


@given(kinds)
def test_stored_rows_go_behind_their_contexts_and_no_others_are_kept(kinds: list[Kind]) -> None:
    feeds = feeds_of(kinds)
    packing = pack(feeds).packing
    hidden = pack(feeds).hidden
    expected: dict[int, int] = {}
    number = 0
    for feed in feeds:
        if feed.stored:
            expected |= {feed.at.start + feed.at.length + i: number + i for i in range(feed.rows)}
        number += feed.rows
    if not expected:
        assert packing.stored_to is None
        return
    assert packing.stored_to is not None
    kept = hidden if packing.stored_from is None else hidden[packing.stored_from]
    assert dict(zip(packing.stored_to.tolist(), kept[:, 0].int().tolist(), strict=True)) == expected


@given(kinds)
def test_firsts_find_the_rows_of_the_understanding_expert(kinds: list[Kind]) -> None:
    feeds = feeds_of(kinds)
    packed = pack(feeds)
    for feed, first in zip(feeds, packed.firsts, strict=True):
        assert torch.equal(packed.hidden[first : first + feed.und.shape[0]], feed.und)


def test_a_cursor_moves_by_rows_and_by_positions() -> None:
    at = Cursor(start=10, length=4, position=4)
    assert at.after(Feed(at, rows(0, 3), causal=True)) == Cursor(10, 7, 7)
    assert at.after(Feed(at, rows(0, 3))) == Cursor(10, 7, 5)
    assert at.after(Feed(at, rows(0, 2), rows(2, 4))) == Cursor(10, 10, 5)
