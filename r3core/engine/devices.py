"""What a turn asks of the device that computes it, beside computing: its clock, its memory, whether it still answers,
and that the host keeps close to it.

On CUDA a call returns before the device has begun what it is asked for. A host that waits for nothing would tell of
steps long before they are drawn, and heed a cancel after all that it has asked for by then. So it ends no turn before
the device has ended the one before the last: a whole turn is left to do then, and while the host takes less than that
for the next one the device never waits.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import torch

from r3core.engine.device_stopwatch import DeviceStopwatch
from r3core.engine.isolation import first_line
from r3core.engine.stopwatch import Stopwatch
from r3core.errors import DeviceError

AHEAD: Final = 2  # turns that the host has asked for and the device has not ended


class Device:
    """A CPU: what a call asks for is done when it returns, and memory is everybody's."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch

    def memory_used_bytes(self) -> int | None:
        """Memory of the device that is taken, by whomever; None for a CPU."""
        return None

    def free_memory(self) -> None:
        """Give back what the allocator keeps."""

    def answers(self) -> bool:
        """Whether the device still computes: after a fault that it cannot shake off every call to it fails."""
        return True

    def turned(self) -> None:
        """A turn has been asked for. Returns once the device is near enough; DeviceError where it is lost."""


class CudaDevice(Device):
    """A CUDA device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(DeviceStopwatch(device))
        self._device = device
        self._under_way: deque[torch.cuda.Event] = deque()

    def memory_used_bytes(self) -> int:
        """Memory of the device that is taken, by whomever."""
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free

    def free_memory(self) -> None:
        """Give back what the allocator keeps."""
        torch.cuda.empty_cache()

    def answers(self) -> bool:
        """Whether the device still computes."""
        try:
            torch.cuda.synchronize(self._device)
        except Exception:  # noqa: BLE001 - whatever it says, it says it instead of an answer
            return False
        return True

    def turned(self) -> None:
        """A turn has been asked for: wait for the turn before the last."""
        try:
            ended = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            ended.record(torch.cuda.current_stream(self._device))
            self._under_way.append(ended)
            while len(self._under_way) > AHEAD:
                self._under_way.popleft().synchronize()
        except RuntimeError as error:
            raise DeviceError(f"the device stopped answering: {first_line(error)}") from error


def device_of(device: torch.device) -> Device:
    """What a turn asks of a device of torch's."""
    return CudaDevice(device) if device.type == "cuda" else Device(Stopwatch())
