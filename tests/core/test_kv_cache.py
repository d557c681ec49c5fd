"""Who holds which rows of the K/V cache: never two at once, and all of them come back."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from r3core.engine.batch import Span
from r3core.engine.kv_cache import SpanAllocator

ROWS = 50


def test_a_span_for_each_size_or_none_at_all() -> None:
    spans = SpanAllocator(10)
    assert spans.take((4, 7)) is None
    assert spans.free_rows == 10
    assert spans.take((4, 6)) == (Span(0, 4), Span(4, 6))
    assert spans.take((1,)) is None


def test_neighbours_grow_together_again_in_any_order() -> None:
    spans = SpanAllocator(9)
    taken = spans.take((3, 3, 3))
    assert taken is not None
    for one in (taken[0], taken[2], taken[1]):
        spans.give_back((one,))
    assert spans.take((9,)) == (Span(0, 9),)


def test_no_rows_are_asked_for_and_none_are_held() -> None:
    spans = SpanAllocator(0)
    taken = spans.take((0, 0))
    assert taken == (Span(0, 0), Span(0, 0))
    spans.give_back(taken)
    assert spans.take((1,)) is None


class Lending(RuleBasedStateMachine):
    """Spans are taken and given back in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.spans = SpanAllocator(ROWS)
        self.held: list[tuple[Span, ...]] = []

    @rule(sizes=st.lists(st.integers(0, 20), max_size=3).map(tuple))
    def take(self, sizes: tuple[int, ...]) -> None:
        free = self.spans.free_rows
        taken = self.spans.take(sizes)
        if taken is None:
            assert self.spans.free_rows == free
            assert free < ROWS or sum(sizes) > ROWS, "an empty cache lends all that fits it"
        else:
            assert tuple(span.rows for span in taken) == sizes
            self.held.append(taken)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        self.spans.give_back(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @invariant()
    def no_row_is_held_twice(self) -> None:
        rows = [row for spans in self.held for s in spans for row in range(s.start, s.start + s.rows)]
        assert len(rows) == len(set(rows))
        assert all(0 <= row < ROWS for row in rows)
        assert self.spans.free_rows == ROWS - len(rows)

    def teardown(self) -> None:
        """All rows come back, and lie together."""
        for spans in self.held:
            self.spans.give_back(spans)
        assert self.spans.take((ROWS,)) == (Span(0, ROWS),)


TestLending = Lending.TestCase
