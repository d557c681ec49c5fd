"""Write the bills of materials: CycloneDX, one for each lock of an image, into build/sbom.

    api.cdx.json      what the API's image holds of Python packages
    worker.cdx.json   the same of the worker's CPU image; torch is among them
    cuda.cdx.json     the same of its CUDA image

They are made of the locks, hashes included, not of an image: what Debian brings, and the CUDA packages that torch's
wheels bring on Linux, are not in them. The same locks give the same bytes. Run by `make sbom`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parent.parent
TOOL: Final = PROJECT / ".venv-sbom" / "bin" / "cyclonedx-py"
SHIPPED: Final = {"api": [], "worker": ["torch"], "cuda": ["torch"]}
"""By image: the locks that go before its own."""


def write(folder: Path) -> list[Path]:
    """The files. Raises CalledProcessError where the tool refuses a lock."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_written(folder, name, [*before, name]) for name, before in SHIPPED.items()]


def _written(folder: Path, name: str, locks: list[str]) -> Path:
    told = "\n".join((PROJECT / "requirements" / f"{lock}.txt").read_text() for lock in locks)
    file = folder / f"{name}.cdx.json"
    form = ["--mc-type", "application", "--sv", "1.6", "--output-reproducible", "--validate"]
    command = [str(TOOL), "requirements", "--pyproject", str(PROJECT / "pyproject.toml"), *form, "-o", str(file), "-"]
    # A lock says nothing of who needs whom, of which it would warn.
    quiet = {"PYTHONWARNINGS": "ignore"}
    subprocess.run(command, input=told, env=quiet, text=True, check=True)
    return file


if __name__ == "__main__":
    for written in write(PROJECT / "build" / "sbom"):
        sys.stdout.write(f"{written.relative_to(PROJECT)}\n")
