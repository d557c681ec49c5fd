"""Work that goes on beside the next turns: the decoding of finished pictures, on a core that the turns leave free.

On a CPU a picture's decoding takes as long as several denoising steps, and nobody else needs to wait for it. On CUDA it
stays in its turn: the device computes one thing after another in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


class Aside:
    """`start` gives a future: of a thread of its own, or done already where there is none."""

    def __init__(self, *, has_thread: bool) -> None:
        threads = torch.get_num_threads()
        # A new thread does not know how many it may compute with.
        self._pool = (
            ThreadPoolExecutor(1, "r3-decode", initializer=torch.set_num_threads, initargs=(threads,))
            if has_thread
            else None
        )

    def start(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Do `work`, beside what comes next where that is possible."""
        if self._pool is not None:
            return self._pool.submit(_without_gradients, partial(work, *args, **kwargs))
        done: Future[T] = Future()
        done.set_result(work(*args, **kwargs))
        return done


def wait_for_one(futures: Iterable[Future[T]]) -> None:
    """Until one of them is done: there is nothing else to do."""
    wait(futures, return_when=FIRST_COMPLETED)


def _without_gradients(work: Callable[[], T]) -> T:
    with torch.inference_mode():
        return work()
