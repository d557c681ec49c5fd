"""Failures stay where they happen: what fails in company is run again one by one, and only the culprit fails.

    memory ran out              it is freed, and each is run alone, once; who fails again fails as OutOfMemory
    anything else in company    each is run alone; who fails again fails as StepFailed
    anything else alone         it fails as StepFailed
    the device is lost          DeviceError: every later call would fail too, whoever made it

What is run must be repeatable: it changes nothing that is remembered before it has succeeded.
No torch here: its errors are known by their names and texts, and whoever owns a device says whether it still answers.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from typing import Final

from r3core.engine.batch import Output, Raised
from r3core.errors import DeviceError, OutOfMemory, R3Error, StepFailed

Outputs = dict[str, Output]

# A full device or host, in the words of torch, CUDA, cuBLAS and cuDNN; the device computes on.
_FULL: Final = re.compile(r"out of memory|can't allocate memory|ALLOC_FAILED", re.IGNORECASE)
# What CUDA cannot shake off: the process's context is lost.
_LOST: Final = re.compile(
    r"device-side assert|illegal (memory access|address|instruction)|misaligned address|invalid program counter|"
    r"hardware stack|unspecified launch failure|launch timed out|ECC error|unknown error|no CUDA-capable device|"
    r"cudaError(Assert|Illegal|Misaligned|InvalidPc|HardwareStack|Launch(Failure|Timeout)|ECC|Unknown|NoDevice|Devices)",
    re.IGNORECASE,
)


class Isolation:
    """Runs pieces of a turn. `free_memory` gives back what a device's allocator keeps; `answers` says whether the
    device still computes.
    """

    def __init__(
        self, free_memory: Callable[[], None] = lambda: None, answers: Callable[[], bool] = lambda: True
    ) -> None:
        self._free_memory, self._answers = free_memory, answers

    def together(self, keys: list[str], act: Callable[[list[str]], Outputs]) -> Outputs:
        """What `act` gives for these trajectories. Raises DeviceError."""
        if not keys:
            return {}
        try:
            return act(keys)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the others
            failure = self._judged(error)
        # Not in the handler: while an error is handled its traceback holds what the forward had computed.
        if isinstance(failure, OutOfMemory):
            self._free_memory()
        elif len(keys) == 1:
            return {keys[0]: Raised(failure)}
        outputs: Outputs = {}
        for key in keys:
            outputs |= self.once(key, lambda own=key: act([own]))  # type: ignore[misc]
        return outputs

    def alone(self, key: str, act: Callable[[], Outputs]) -> Outputs:
        """What `act` gives for one trajectory, tried again where memory ran out. Raises DeviceError."""
        return self.together([key], lambda _: act())

    def once(self, key: str, act: Callable[[], Outputs]) -> Outputs:
        """The same without a second try. Raises DeviceError."""
        try:
            return act()
        except Exception as error:  # noqa: BLE001 - reported as this trajectory's failure
            failure = self._judged(error)
        if isinstance(failure, OutOfMemory):
            self._free_memory()
        return {key: Raised(failure)}

    def _judged(self, error: Exception) -> R3Error:
        """What a trajectory fails with because of an error. Raises DeviceError where it is the device's."""
        if isinstance(error, DeviceError):
            raise error
        if isinstance(error, R3Error):
            return error
        told = [_told(link) for link in _chain(error)]
        if any(map(_LOST.search, told)) or not self._answers():
            raise DeviceError(f"the device stopped answering: {first_line(error)}") from error
        # Whoever keeps the failure must not keep the tensors of the frames that it passed through.
        for link in _chain(error):
            traceback.clear_frames(link.__traceback__)
        if is_of_memory(error):
            return OutOfMemory("the device has no memory left for this request; ask for a smaller size")
        return StepFailed.because_of(error)


def is_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of device or host, and nothing else is wrong."""
    return any(_FULL.search(_told(link)) for link in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and what it was raised beside."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__


def _told(error: BaseException) -> str:
    """What an error says of device or memory. Of other types nothing: their texts may repeat what a client sent."""
    if isinstance(error, MemoryError):
        return "out of memory"
    return str(error) if isinstance(error, RuntimeError) else ""


def first_line(error: Exception) -> str:
    """What an error says: CUDA adds lines of advice for developers."""
    return (str(error).splitlines() or [type(error).__name__])[0]
