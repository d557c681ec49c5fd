"""Python's garbage collector at the start and the end of a process.

What a command imports is up to half a million objects, and none of them is garbage. The collector looks at them again
now and then, and when the process ends: for a worker that is a quarter of a second each time.
"""

from __future__ import annotations

import atexit
import gc


def leave_out_at_end() -> None:
    """From the start of a command: what is left when its process ends goes with it, and is not looked through."""
    atexit.register(gc.freeze)


def begin() -> None:
    """Once a process that lasts has all that it needs: that stays, and what comes is collected as usual."""
    gc.collect()
    gc.freeze()
