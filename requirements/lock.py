"""Write requirements/lock.txt: every package of the extras api, worker and dev, exact, with hashes of all its files.

The lock holds for Python 3.11 to 3.13 on Linux (x86-64, arm64) and macOS. torch is left out: requirements/torch.txt
names it, and it is installed first, because its build differs from machine to machine. No index is named either:
whoever installs brings their own. Run by `make lock`; needs uv beside the Python that runs it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parent.parent
LOCK: Final = PROJECT / "requirements" / "lock.txt"
HEADER: Final = """\
# Written by `make lock` from pyproject.toml; not by hand. torch is not here: requirements/torch.txt comes first.
# pip install --require-hashes --no-deps -r requirements/lock.txt
"""
# A requirement that no Python meets takes torch, and the CUDA packages it asks for, out of the resolution.
WITHOUT_TORCH: Final = "torch ; python_version < '0'\n"


def resolve() -> str:
    """The pins and hashes. Raises CalledProcessError where uv finds no solution."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as overrides:
        overrides.write(WITHOUT_TORCH)
        overrides.flush()
        uv = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet"]
        form = ["--universal", "--fork-strategy", "fewest", "--python-version", "3.11", "--generate-hashes"]
        silent = ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
        extras = ["--extra", "api", "--extra", "worker", "--extra", "dev"]
        command = [*uv, *form, *silent, *extras, "--override", overrides.name, "pyproject.toml"]
        return subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout


def main() -> int:
    """Write the lock; the exit code is 1 where it cannot be made."""
    try:
        pins = resolve()
    except FileNotFoundError:
        print("uv is not beside this Python; run `make lock`", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr)
        return 1
    if "://" in pins:
        print("the resolution names a URL, which would tie the lock to one index; nothing was written", file=sys.stderr)
        return 1
    LOCK.write_text(HEADER + pins)
    return 0


if __name__ == "__main__":
    sys.exit(main())
