"""Python's garbage collector at the start and the end of a command.

What a command imports is up to half a million objects, and none of them is garbage. The collector looks at them again
and again while they come, now and then later, and when the process ends: for a worker that is a quarter of a second
each time.
"""

from __future__ import annotations

import atexit
import gc
from typing import Final

_OF_PYTHON: Final = gc.get_threshold()
_STARTING: Final = 50_000  # objects made and not freed before the youngest are looked at; Python's own is 700


def put_off() -> None:
    """From the start of a command: look seldom until `begin`, and at the end of the process not at all."""
    gc.set_threshold(_STARTING, *_OF_PYTHON[1:])
    atexit.register(gc.freeze)


def begin() -> None:
    """Once a process that lasts has all that it needs: that stays, and what comes is collected as usual."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_OF_PYTHON)
