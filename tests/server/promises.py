"""Promised times: looked at wherever they are kept, and held to, three times over, only with R3_TEST_TIMES=1."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def promised(seconds: float) -> Iterator[None]:
    """What the block does is promised to take at most so long."""
    began = time.perf_counter()
    yield
    took = time.perf_counter() - began
    if os.environ.get("R3_TEST_TIMES") == "1":
        assert took < 3 * seconds, f"it took {took:.3f} s where {seconds} s are promised"
