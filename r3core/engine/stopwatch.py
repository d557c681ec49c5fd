"""How long the parts of a turn take, by the host's clock: right where a call returns when its result is there."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from r3core.engine.batch import Part, Took

REMEMBERED: Final = 256  # where nobody asks, the oldest are forgotten


class Stopwatch:
    """`with stopwatch.timing("text", size=3): ...`; what raises is not counted."""

    def __init__(self) -> None:
        self._took: deque[Took] = deque(maxlen=REMEMBERED)

    @contextmanager
    def timing(self, part: Part, size: int, branches: int = 0) -> Iterator[None]:
        """Time what the block does."""
        began_s = time.perf_counter()
        yield
        self._took.append(Took(part, time.perf_counter() - began_s, size, branches))

    def took(self) -> list[Took]:
        """What was timed since this was last asked."""
        took = list(self._took)
        self._took.clear()
        return took
