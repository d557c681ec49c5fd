"""How long the parts of a turn take, by the host's clock: right where a call returns when its result is there."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from r3core.engine.batch import Part, Took

REMEMBERED: Final = 256  # where nobody asks, the oldest are forgotten


@dataclass
class Timed:
    """A part under the clock. Its size may grow until the turn is over: how many tokens a forward was good for shows
    once they are chosen.
    """

    part: Part
    size: int
    branches: int

    def took(self, seconds: float) -> Took:
        """The part and its time."""
        return Took(self.part, seconds, self.size, self.branches)


class Stopwatch:
    """`with stopwatch.timing("decode", size=1): ...`; what raises is not counted."""

    def __init__(self) -> None:
        self._timed: deque[tuple[Timed, float]] = deque(maxlen=REMEMBERED)

    @contextmanager
    def timing(self, part: Part, size: int = 0, branches: int = 0) -> Iterator[Timed]:
        """Time what the block does."""
        timed = Timed(part, size, branches)
        began_s = time.perf_counter()
        yield timed
        self._timed.append((timed, time.perf_counter() - began_s))

    def took(self) -> list[Took]:
        """What was timed since this was last asked."""
        took = []
        while self._timed:  # one by one, for another thread may time something meanwhile
            timed, seconds = self._timed.popleft()
            took.append(timed.took(seconds))
        return took
