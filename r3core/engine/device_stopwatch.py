"""How long the parts of a turn take on a CUDA device, whose host runs ahead of it: by the device's own clock.

A part is timed by two events in the device's stream. They are read when they have come to pass and never waited for, so
that measuring costs no synchronisation; what is still under way is told the next time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from r3core.engine.batch import Part, Took
from r3core.engine.stopwatch import REMEMBERED, Stopwatch, Timed


class DeviceStopwatch(Stopwatch):
    """A stopwatch by CUDA events."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._under_way: deque[tuple[torch.cuda.Event, torch.cuda.Event, Timed]] = deque(maxlen=REMEMBERED)

    @contextmanager
    def timing(self, part: Part, size: int = 0, branches: int = 0) -> Iterator[Timed]:
        """Time what the block has the device do."""
        timed = Timed(part, size, branches)
        began, ended = _event(), _event()
        stream = torch.cuda.current_stream(self._device)
        began.record(stream)
        yield timed
        ended.record(stream)
        self._under_way.append((began, ended, timed))

    def took(self) -> list[Took]:
        """What has come to its end since this was last asked."""
        took = []
        while self._under_way and self._under_way[0][1].query():  # type: ignore[no-untyped-call]
            began, ended, timed = self._under_way.popleft()
            took.append(timed.took(began.elapsed_time(ended) / 1000))
        return took


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
