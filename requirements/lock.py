"""Write the locks: every package exact, with hashes of all its files.

    lock.txt      of the extras api, worker and dev: what `make install` installs
    api.txt       what the API's image holds: the extra api, at lock.txt's versions
    worker.txt    what the worker's CPU image holds: the extra worker, at lock.txt's versions
    cuda.txt      what the worker's CUDA image holds: the extras worker and cuda
    build.txt     what builds the project's own wheel in the images
    k8s.txt       the programs of `make check-k8s` (k8s.in); a virtual environment of their own
    sbom.txt      the programs of `make sbom` and `make licences` (sbom.in); the same
    checkov.txt   checkov (checkov.in), which needs one for itself alone

The locks hold for Python 3.11 to 3.13 on Linux (x86-64, arm64) and macOS. torch is left out: requirements/torch.txt
names it, and it is installed first, because its build differs from machine to machine. No index is named either:
whoever installs brings their own. Run by `make lock`; needs uv beside the Python that runs it. Names as arguments write
those alone.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = PROJECT / "requirements"
HEADER: Final = """\
# Written by `make lock` from {source}; not by hand.{torch}
# pip install --require-hashes --no-deps -r requirements/{name}.txt
"""
# A requirement that no Python meets takes torch, and the CUDA packages it asks for, out of the resolution.
WITHOUT_TORCH: Final = "torch ; python_version < '0'\n"
_AT_THE_LOCKS_VERSIONS: Final = ("--constraint", "requirements/lock.txt")
_EVERYWHERE: Final = ("--extra", "s3", "--extra", "otel")
_TORCH_FIRST: Final = " torch is not here: requirements/torch.txt comes first."

LOCKS: Final[Mapping[str, Sequence[str]]] = {
    "lock": ("--extra", "api", "--extra", "worker", "--extra", "dev", "pyproject.toml"),
    "api": (*_EVERYWHERE, "--extra", "api", *_AT_THE_LOCKS_VERSIONS, "pyproject.toml"),
    "worker": (*_EVERYWHERE, "--extra", "worker", *_AT_THE_LOCKS_VERSIONS, "pyproject.toml"),
    "cuda": (*_EVERYWHERE, "--extra", "worker", "--extra", "cuda", *_AT_THE_LOCKS_VERSIONS, "pyproject.toml"),
    "build": (*_AT_THE_LOCKS_VERSIONS, "requirements/build.in"),
    "k8s": ("requirements/k8s.in",),
    "sbom": ("requirements/sbom.in",),
    "checkov": ("requirements/checkov.in",),
}


def resolve(name: str) -> str:
    """The pins and hashes of one lock. Raises CalledProcessError where uv finds no solution."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as overrides:
        overrides.write(WITHOUT_TORCH)
        overrides.flush()
        uv = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet"]
        form = ["--universal", "--fork-strategy", "fewest", "--python-version", "3.11", "--generate-hashes"]
        silent = ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
        command = [*uv, *form, *silent, "--override", overrides.name, *LOCKS[name]]
        return subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout


def header(name: str) -> str:
    """What stands above the pins."""
    source = LOCKS[name][-1]
    return HEADER.format(source=source, name=name, torch=_TORCH_FIRST if source == "pyproject.toml" else "")


def main(names: Sequence[str]) -> int:
    """Write the locks of these names, every one without any; the exit code is 1 where one cannot be made."""
    if strange := sorted(set(names) - set(LOCKS)):
        print(f"there is no lock {', '.join(strange)}; there are {', '.join(LOCKS)}", file=sys.stderr)
        return 1
    for name in names or LOCKS:
        try:
            pins = resolve(name)
        except FileNotFoundError:
            print("uv is not beside this Python; run `make lock`", file=sys.stderr)
            return 1
        except subprocess.CalledProcessError as error:
            print(error.stderr, file=sys.stderr)
            return 1
        if "://" in pins:
            print(f"{name}: the resolution names a URL, which would tie the lock to one index; it was not written")
            return 1
        (FOLDER / f"{name}.txt").write_text(header(name) + pins)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
