"""The file of a run: what was measured, of which checkpoint, where, and with what. Read and written here alone.

    {"command", "machine", "versions", "commit", "date", "checkpoint", "dtype", "attention", "ceiling", "lines",
     "notes"}

`machine` names the processor and, where there is one, the GPU; no host, no path.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Self

import torch

from r3core import malloc
from r3core.bench.line import Ceiling, Line
from r3core.cores import usable_cores
from r3core.runtime import Runtime

_CPUINFO: Final = Path("/proc/cpuinfo")
_PACKAGES: Final = ("torch", "transformers", "diffusers", "numpy")


@dataclass(frozen=True)
class Results:
    """A run. `notes` say what it lacks: parts that were left out, or that it was ended before it was done."""

    command: str
    machine: Mapping[str, str | int]
    versions: Mapping[str, str]
    commit: str
    date: str
    checkpoint: str
    dtype: str
    attention: str
    ceiling: Ceiling
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, runtime: Runtime, command: str, ceiling: Ceiling, lines: Sequence[Line], notes: Sequence[str] = ()
    ) -> Self:
        """A run that has just been made on this machine."""
        bagel = runtime.loaded.model.bagel
        return cls(
            command=command,
            machine=machine(bagel.device),
            versions=versions(),
            commit=commit(),
            date=datetime.now(UTC).date().isoformat(),
            checkpoint=f"{runtime.description.name} {runtime.description.hash}",
            dtype=str(bagel.dtype).removeprefix("torch."),
            attention=runtime.attention.attention.name,
            ceiling=ceiling,
            lines=tuple(lines),
            notes=tuple(notes),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        lines = [{f.name: getattr(line, f.name) for f in fields(line)} for line in self.lines]
        return {name: _plain(value) for name, value in {**own, "ceiling": asdict(self.ceiling), "lines": lines}.items()}

    def write(self, path: Path) -> None:
        """Put it in the place of what was there, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".part")
        beside.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")
        beside.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The run that `write` wrote."""
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        lines = (Line(**{**line, "values": tuple(line["values"])}) for line in value["lines"])
        ceiling = Ceiling(**value["ceiling"])
        return cls(**{**value, "ceiling": ceiling, "lines": tuple(lines), "notes": tuple(value["notes"])})

    def of_part(self, part: str) -> tuple[Line, ...]:
        """The lines of one part, in their order."""
        return tuple(line for line in self.lines if line.part == part)


def machine(device: torch.device) -> dict[str, str | int]:
    """What it ran on."""
    found: dict[str, str | int] = {
        "cpu": _processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "malloc": malloc.in_use(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": f"{platform.system()} {platform.machine()}",
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["gpu_memory_bytes"] = torch.cuda.get_device_properties(device).total_memory
    return found


def versions() -> dict[str, str]:
    """Of Python, of what computes, and of CUDA where torch was built with it."""
    found = {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    return found


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # brought along without what pip knows it by
        return "unknown"


def commit() -> str:
    """The commit of the source tree, with a mark where it was changed since; of an installed package its version.

    Of a tree that was copied without git it is unknown.
    """
    folder, git = Path(__file__).resolve().parent, shutil.which("git")
    if git is not None:
        asked = [git, "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        tracked = subprocess.run(
            [git, "-C", str(folder), "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True,
            check=False,
        )
        if done.returncode == 0 and tracked.returncode == 0:
            return done.stdout.strip()
    try:
        return f"version {metadata.version('r3-server')}"
    except metadata.PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    """The processor's own name, where the system tells it."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _plain(value: Any) -> Any:
    """Numbers with as many digits as mean anything, so that a file of runs can be read."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    return value
