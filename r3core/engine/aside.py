"""The cores of a CPU: what is computed beside the turns, on one of them, and how many the turns take meanwhile.

On a CPU a picture's decoding takes as long as several denoising steps, and nobody else needs to wait for it. On CUDA it
stays in its turn: the device computes one thing after another in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ParamSpec, TypeVar

import torch

from r3core.cores import usable_cores
from r3core.engine.threads import Threads

P = ParamSpec("P")
T = TypeVar("T")


class Aside:
    """`start` gives a future: of a thread of its own that computes on one core, or done already where there are no
    `threads` to share.
    """

    def __init__(self, threads: Threads | None) -> None:
        self._threads = threads
        self._pool = None if threads is None else ThreadPoolExecutor(1, "r3-decode", initializer=_compute_alone)
        self._begun: list[Future[Any]] = []

    @property
    def busy(self) -> int:
        """How many threads of its own are at work."""
        self._begun = [future for future in self._begun if not future.done()]
        return min(1, len(self._begun))

    @property
    def has_thread(self) -> bool:
        """Whether anything is computed beside the turns."""
        return self._pool is not None

    @property
    def is_free(self) -> bool:
        """Whether what is started now would be begun at once, and keep nobody waiting."""
        return self.has_thread and not self.busy

    def computing(self, rows: int | None) -> AbstractContextManager[None]:
        """As many cores as a forward of so many rows is worth, or all that are free (None)."""
        return nullcontext() if self._threads is None else self._threads.computing(rows, self.busy)

    def start(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Do `work`, beside what comes next where that is possible."""
        if self._pool is None:
            return at_once(work, *args, **kwargs)
        future = self._pool.submit(_without_gradients, partial(work, *args, **kwargs))
        self._begun.append(future)
        return future


def helps(device: torch.device) -> bool:
    """Whether there is a core to compute on beside the turns."""
    return device.type == "cpu" and usable_cores() > 1


def decodings(device: torch.device) -> int:
    """How many pictures are decoded at once, at the most: one within its turn, and one beside."""
    return 2 if helps(device) else 1


def at_once(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Do `work` now; raises what it raises."""
    done: Future[T] = Future()
    done.set_result(work(*args, **kwargs))
    return done


def wait_for_one(futures: Iterable[Future[T]]) -> None:
    """Until one of them is done: there is nothing else to do."""
    wait(futures, return_when=FIRST_COMPLETED)


def _compute_alone() -> None:
    """Have this thread compute with one core. At its first look a new one takes on how many another thread has set, and
    would do so after it was told.
    """
    torch.get_num_threads()
    torch.set_num_threads(1)


def _without_gradients(work: Callable[[], T]) -> T:
    with torch.inference_mode():
        return work()
