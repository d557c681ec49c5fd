"""Who holds which rows of the K/V cache: contiguous spans, first fit. Accounting only; the tensor is the runner's.

A context's rows lie side by side, so a branch that begins with the same tokens is a view of the first rows (a fork,
not a copy), and `sdpa` reads keys and values where they lie. The variable-length kernels of CUDA want them end to end:
there, until the speed work, the keys of a forward are gathered once a layer.
"""

from __future__ import annotations

from r3core.engine.batch import Span


class SpanAllocator:
    """Lends spans of `rows` rows. All or nothing: a step either gets every span it needs or none."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._free: list[Span] = [Span(0, rows)] if rows else []

    @property
    def free_rows(self) -> int:
        """Rows that nobody holds; they need not lie together."""
        return sum(span.rows for span in self._free)

    def take(self, sizes: tuple[int, ...]) -> tuple[Span, ...] | None:
        """A span for each size, or None where they do not all fit now."""
        taken: list[Span] = []
        for size in sizes:
            span = self._first_fit(size)
            if span is None:
                self.give_back(tuple(taken))
                return None
            taken.append(span)
        return tuple(taken)

    def give_back(self, spans: tuple[Span, ...]) -> None:
        """Return spans; neighbours grow together again."""
        merged: list[Span] = []
        for span in sorted((*self._free, *(s for s in spans if s.rows)), key=lambda s: s.start):
            if merged and merged[-1].start + merged[-1].rows == span.start:
                merged[-1] = Span(merged[-1].start, merged[-1].rows + span.rows)
            else:
                merged.append(span)
        self._free = merged

    def _first_fit(self, size: int) -> Span | None:
        if size == 0:
            return Span(0, 0)
        for i, span in enumerate(self._free):
            if span.rows >= size:
                rest = Span(span.start + size, span.rows - size)
                self._free[i : i + 1] = [rest] if rest.rows else []
                return Span(span.start, size)
        return None
