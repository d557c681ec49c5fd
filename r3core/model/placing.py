"""Row numbers and times from the host to the device: one copy for each array, and nobody waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray


def to_device(host: NDArray[Any], device: torch.device) -> Tensor:
    """The array as a tensor on the device. The copy comes from pinned memory, so the host goes on at once."""
    tensor = torch.from_numpy(host)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
