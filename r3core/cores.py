"""How many of the machine's cores this process may use, and with how many threads it should. No torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Cores that this process may use: those of its affinity, no more than its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CPU_QUOTA.read_text(encoding="ascii").split()
        return min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup of version 2, or "max": no quota
        return cores


def usual_threads() -> int:
    """Threads to compute with where no setting says: what OMP_NUM_THREADS asks for, else one for each usable core.

    torch and its libraries begin with that variable, and whoever shares a machine out by it means all programs.
    """
    outermost = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(outermost) if outermost.isdecimal() and int(outermost) else usable_cores()
