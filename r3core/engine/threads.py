"""How many of a CPU's cores a forward computes with.

torch shares every operation out over as many threads as it is told. A forward of few rows loses more by that than it
gains, and where another process wants the same cores, each operation waits for its slowest share: two threads beside
one busy neighbour on two cores take longer than one. So small forwards take one thread, larger ones a thread for each
few million multiplications, and as soon as this thread waits for its core, all of them take fewer for a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

from r3core.cores import usable_cores

_WORTH_A_THREAD: Final = 8_000_000  # multiplications of a decoder layer
_LOOK_S: Final = 0.5  # between two looks at how long this thread waited
_CROWDED: Final = 0.15  # of the time
_SHORTEST_S, _LONGEST_S = 1.0, 32.0  # how long fewer threads are taken, twice as long each time
_SCHEDSTAT: Final = Path("/proc/thread-self/schedstat")  # Linux: ns on a core, ns waiting for one, times on one


def waited_s() -> float:
    """How long the calling thread has waited for a core since it began; 0 where the system does not say."""
    try:
        return int(_SCHEDSTAT.read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


class Threads:
    """`most` are torch's when this is made. `work_a_row` are the multiplications of a row in one layer.

    How many there are must show in no number that comes out, for it depends on what else goes on. That holds for
    oneDNN's products and convolutions, in float32 and with the few threads that it was tried with. torch's own products
    differ in their last digits, so with `varies` they have one thread: the eye, the head, what is written and judged.
    Attention of few rows has one in any forward (r3core.model.one_thread). Without `varies` everything has the same
    number, and one core is left for what is computed beside it.
    """

    def __init__(
        self,
        work_a_row: int,
        *,
        varies: bool = True,
        clock: Callable[[], float] = time.monotonic,
        waited: Callable[[], float] = waited_s,
    ) -> None:
        self._cores = usable_cores()
        most = torch.get_num_threads()
        self.most, self._varies = most if varies else min(most, max(1, self._cores - 1)), varies
        self._work_a_row = work_a_row
        self._clock, self._waited = clock, waited
        self._allowed = self.most
        self._looked: tuple[float, float] | None = None  # when, and what this thread had waited by then
        self._fewer_until, self._pause_s = 0.0, _SHORTEST_S

    def count(self, rows: int | None, beside: int) -> int:
        """Threads for a forward of so many rows, or for whatever is large (None), while so many other threads of this
        process compute.
        """
        if self.most == 1 or not self._varies:
            return self.most
        self._look()
        most = min(self._allowed, max(1, min(self._cores, self.most) - beside))
        return most if rows is None else min(most, 1 + rows * self._work_a_row // _WORTH_A_THREAD)

    @contextmanager
    def computing(self, rows: int | None, beside: int) -> Iterator[None]:
        """Compute with so many; afterwards the calling thread has as many as before."""
        before, count = torch.get_num_threads(), self.count(rows, beside)
        if count == before:
            yield
            return
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _look(self) -> None:
        now = self._clock()
        if self._looked is not None and now - self._looked[0] < _LOOK_S:
            return
        before, waited = self._looked, self._waited()
        self._looked = now, waited
        if before is None:
            return
        if self._allowed > 1 and waited - before[1] > _CROWDED * (now - before[0]):
            self._allowed //= 2
            self._fewer_until, self._pause_s = now + self._pause_s, min(2 * self._pause_s, _LONGEST_S)
        elif self._allowed < self.most and now > self._fewer_until:
            self._allowed = self.most
        elif self._allowed == self.most and now > self._fewer_until + _LONGEST_S:
            self._pause_s = _SHORTEST_S
