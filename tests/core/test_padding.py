"""Which pieces are attended in one call, and that it costs little."""

from __future__ import annotations

from itertools import accumulate

import pytest

from r3core.model.padding import PieceRows, Placed, Together, together


def placed(*pieces: PieceRows) -> list[Placed]:
    firsts = accumulate((piece.rows for piece in pieces), initial=0)
    return list(zip(firsts, pieces, strict=False))


def token(past: int, start: int = 0) -> PieceRows:
    return PieceRows(start, past, 1, causal=True, stored=True)


def latents(past: int, rows: int = 11) -> PieceRows:
    return PieceRows(0, past, rows, causal=False, stored=False)


def sizes(groups: tuple[Together, ...]) -> list[tuple[int, int]]:
    """How many pieces each group has, and how many keys each of them reads from the cache."""
    return [(group.pieces, len(group.keys) // group.pieces) for group in groups]


def test_the_next_tokens_of_texts_go_together() -> None:
    groups, alone = together(placed(token(100), token(90), token(120)), None)
    assert sizes(groups) == [(3, 121)]
    assert not alone
    assert groups[0].is_whole


def test_drafts_of_several_lengths_go_together() -> None:
    pieces = placed(token(100), PieceRows(0, 90, 4, causal=True, stored=True))
    groups, alone = together(pieces, None)
    assert sizes(groups) == [(2, 101)]
    assert not alone


def test_latents_of_several_sizes_do_not() -> None:
    groups, alone = together(placed(latents(40), latents(20), latents(40, rows=18)), None)
    assert sizes(groups) == [(2, 40)]
    assert [piece.rows for _, piece in alone] == [18]


def test_a_new_context_has_a_call_of_its_own() -> None:
    context = PieceRows(0, 0, 200, causal=True, stored=True)
    groups, alone = together(placed(token(50), context, token(60)), None)
    assert sizes(groups) == [(2, 61)]
    assert [piece for _, piece in alone] == [context]


def test_short_ones_are_not_padded_to_a_much_longer_one() -> None:
    pieces = placed(*(token(10) for _ in range(8)), token(30_000))
    groups, alone = together(pieces, None)
    assert sizes(groups) == [(8, 11)]
    assert [piece.past for _, piece in alone] == [30_000]


def test_a_single_piece_stays_alone() -> None:
    groups, alone = together(placed(token(100)), None)
    assert not groups
    assert len(alone) == 1


def test_nobody_reads_a_row_of_anothers_not_even_where_it_is_hidden() -> None:
    """A row that is no number, times nothing, is none either."""
    drafted = PieceRows(700, 95, 3, causal=True, stored=True)
    pieces = (drafted, token(100, start=300), token(90, start=500), token(0, start=1))
    [group], _ = together(placed(*pieces), None)
    for keys, piece in zip(group.keys.view(group.pieces, -1).tolist(), pieces, strict=True):
        assert set(keys) <= set(range(piece.start, piece.start + piece.seen))


@pytest.mark.parametrize("pieces", [(latents(40), latents(40)), (token(7), token(7))])
def test_without_padding_there_is_no_mask(pieces: tuple[PieceRows, ...]) -> None:
    groups, _ = together(placed(*pieces), None)
    assert groups[0].visible is None
