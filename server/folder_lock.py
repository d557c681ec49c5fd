"""A folder that one command writes, and no second one meanwhile."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.misconfigured import Misconfigured


@contextmanager
def held(path: Path, command: str) -> Iterator[None]:
    """Make the folder if there is none, and hold it by a file `.lock` while the block lasts. Raises Misconfigured."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Misconfigured(f"--out {path} cannot be written ({error.strerror}); name another folder") from error
    try:
        _hold(lock, path, command)
        yield
    finally:
        os.close(lock)  # which lets go of it


def made_in(path: Path) -> list[str]:
    """What lies in it, without hidden files."""
    return sorted(file.name for file in path.iterdir() if not file.name.startswith("."))


def _hold(lock: int, path: Path, command: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Misconfigured(f"--out {path} is being written by another {command}; wait, or name another") from error
    except OSError:
        pass  # a disk that knows no locks
