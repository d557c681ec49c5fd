"""Differences by prompt, and what chance could make of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.research.paired import paired, sign_test

VALUES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30)


@given(VALUES)
def test_the_difference_lies_in_its_interval_and_every_prompt_is_won_lost_or_tied(
    values: list[tuple[int, int]],
) -> None:
    found = paired([a / 4 for a, _ in values], [b / 4 for _, b in values])
    assert found is not None
    assert found.low <= found.difference + 1e-9
    assert found.difference <= found.high + 1e-9
    assert found.wins + found.losses + found.ties == found.of == len(values)
    assert found.difference == pytest.approx(found.second - found.first)


@given(VALUES)
def test_the_other_way_round_it_is_the_same_with_the_sign_turned(values: list[tuple[int, int]]) -> None:
    first, second = [a / 4 for a, _ in values], [b / 4 for _, b in values]
    there, back = paired(first, second), paired(second, first)
    assert there is not None
    assert back is not None
    assert (there.wins, there.losses, there.p) == (back.losses, back.wins, back.p)
    assert there.difference == pytest.approx(-back.difference)


def test_the_interval_is_as_wide_as_the_normal_one_where_that_holds() -> None:
    first, second = [0.0] * 400, [1.0] * 120 + [0.0] * 220 + [-1.0] * 60
    found = paired(first, second)
    assert found is not None
    # By hand: mean 0.15, variance 180/400 - 0.15², over 400 prompts.
    half = 1.96 * ((180 / 400 - 0.15**2) / 400) ** 0.5
    assert found.difference == pytest.approx(0.15)
    assert found.low == pytest.approx(0.15 - half, abs=0.01)
    assert found.high == pytest.approx(0.15 + half, abs=0.01)
    assert paired(first, second) == found


def test_means_that_differ_less_than_prompts_do_are_not_taken_for_a_difference() -> None:
    found = paired([0.0, 1.0] * 20, [1.0, 0.0] * 19 + [1.0, 1.0])
    assert found is not None
    assert found.low < 0 < found.high
    assert found.p > 0.5


@pytest.mark.parametrize(
    ("wins", "losses", "p"), [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 2 / 32), (0, 10, 2 / 1024), (7, 2, 2 * 46 / 512)]
)
def test_the_sign_test_is_exact(wins: int, losses: int, p: float) -> None:
    assert sign_test(wins, losses) == pytest.approx(p)


def test_thousands_of_prompts_are_no_trouble() -> None:
    assert 0 < sign_test(1400, 1100) < 1e-6


def test_what_rounding_makes_of_one_score_is_neither_won_nor_lost() -> None:
    found = paired([0.5] * 20, [0.5 + 1e-5] * 20)
    assert found is not None
    assert (found.wins, found.losses, found.ties, found.p) == (0, 0, 20, 1)


def test_a_tiny_p_is_not_told_as_none() -> None:
    found = paired([0.0] * 100, [1.0] * 100)
    assert found is not None
    assert found.to_json()["p"] == pytest.approx(2 * 0.5**100, rel=0.01)


def test_of_nothing_there_is_nothing() -> None:
    assert paired([], []) is None
