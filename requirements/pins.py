"""What the locks pin, read from them: for the bills of materials and the list of licences."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from packaging.markers import Marker

FOLDER: Final = Path(__file__).resolve().parent
SHIPPED: Final = ("api", "worker", "cuda")
"""The locks of what the images hold; torch comes before the last two."""
_PIN: Final = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)(?: *; ([^\\\n]+))?", re.MULTILINE)
# Debian 12's Python is the oldest, and older than what some markers ask for.
_SYSTEMS: Final = tuple(
    {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "sys_platform": system,
        "platform_system": system.title(),
        "platform_machine": machine,
    }
    for python in ("3.11.2", "3.12.9", "3.13.3")
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
)


class Pin(NamedTuple):
    """A package at its version; `is_used` where any system that the locks hold for installs it."""

    name: str
    version: str
    is_used: bool


def pins_of(lock: str) -> list[Pin]:
    """What a lock names, torch first where it goes with it."""
    first = [] if lock == "api" else [(FOLDER / "torch.txt").read_text()]
    found = _PIN.findall("".join([*first, (FOLDER / f"{lock}.txt").read_text()]))
    return [Pin(name, version, _is_used(marker.strip())) for name, version, marker in found]


def _is_used(marker: str) -> bool:
    return not marker or any(Marker(marker).evaluate(dict(system)) for system in _SYSTEMS)
