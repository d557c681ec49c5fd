"""Promised times: looked at wherever they are kept, and held to, three times over, only with R3_TEST_TIMES=1."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

BEYOND: Final = 3.0  # a measured figure fails its test only where it is this many times what is promised


@dataclass
class Promise:
    """A time that is promised, and the time that it took once the block is over."""

    seconds: float
    took_s: float = 0.0

    @property
    def is_kept(self) -> bool:
        """Whether it took no longer than promised."""
        return self.took_s <= self.seconds


@contextmanager
def promised(seconds: float) -> Iterator[Promise]:
    """What the block does is promised to take at most so long."""
    promise = Promise(seconds)
    began = time.perf_counter()
    yield promise
    promise.took_s = time.perf_counter() - began
    held_to(promise.took_s, seconds)


def held_to(measured: float, limit: float) -> bool:
    """Whether a figure is within its promise. With R3_TEST_TIMES=1 one far beyond it fails."""
    if os.environ.get("R3_TEST_TIMES") == "1":
        assert measured < BEYOND * limit, f"{measured:.3f} was measured where {limit} is promised"
    return measured <= limit
