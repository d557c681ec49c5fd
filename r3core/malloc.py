"""Which malloc a process on a CPU computes with.

torch asks for aligned memory for what each operation gives, and glibc cuts it out of a larger block, whose ends it
takes back: a third of a small product's time. tcmalloc (gperftools; Debian's libtcmalloc-minimal4) has blocks of each
size at hand. Only the dynamic linker can put it in glibc's place, before the process starts: LD_PRELOAD. Numbers stay
as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from ctypes.util import find_library
from pathlib import Path
from typing import Final

VARIABLE: Final = "LD_PRELOAD"
PACKAGE: Final = "libtcmalloc-minimal4"
_QUICKER: Final = ("tcmalloc_minimal", "tcmalloc")
_KNOWN: Final = ("tcmalloc", "jemalloc", "mimalloc", "tbbmalloc")
_GPUS: Final = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))  # Nvidia, Windows below, AMD
_MAPS: Final = Path("/proc/self/maps")


def quicker() -> str | None:
    """The name by which this machine's linker finds a quicker one; None where there is none."""
    if sys.platform != "linux":
        return None
    return next((found for name in _QUICKER if (found := find_library(name))), None)


def in_use() -> str:
    """Whose the malloc of this process is: `tcmalloc`, say, or `libc`."""
    try:
        mapped = _MAPS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "libc"
    return next((name for name in _KNOWN if f"/lib{name}" in mapped), "libc")


def is_for(device: str | None) -> bool:
    """Whether a worker that is told this device computes on a CPU: with a GPU it was not measured."""
    if device is None:
        return not any(gpu.exists() for gpu in _GPUS)
    return device.partition(":")[0] == "cpu"


def preload(environment: Mapping[str, str], device: str | None) -> dict[str, str]:
    """What a worker's environment needs for it; nothing where the variable is set, be it to nothing."""
    if VARIABLE in environment or not is_for(device) or (found := quicker()) is None:
        return {}
    return {VARIABLE: found}
