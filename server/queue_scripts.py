"""The Lua scripts, read from the package, and what Redis says when it cannot run one. Shared by both queue classes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

import redis
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from server.queue_errors import OutOfOrder, QueueError, QueueUnavailable, ServerTooOld

OLDEST_REDIS: Final = (7, 0)
# A client's own retries would run a command twice: ours repeat idempotent scripts only.
TRANSIENT: Final = (
    *(redis.ConnectionError, redis.TimeoutError, OSError),
    *(BusyLoadingError, ReadOnlyError, TryAgainError, MasterDownError, ClusterDownError),
)
TIMEOUTS: Final = (redis.TimeoutError, TimeoutError)
# The same by the first word of what Redis says, where redis-py has no class for it.
TRANSIENT_CODES: Final = (
    *("MISCONF", "NOREPLICAS", "LOADING", "READONLY", "TRYAGAIN", "MASTERDOWN", "CLUSTERDOWN"),
    "BUSY ",  # somebody else's script runs for seconds
)


@dataclass(frozen=True)
class Script:
    """One script as it is sent: its text and the SHA-1 by which Redis knows it."""

    name: str
    text: str

    @property
    def sha(self) -> str:
        """What EVALSHA calls it by."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


@cache
def script(name: str) -> Script:
    """The script of that name: its first line (flags), what all scripts share, then the rest of it."""
    folder = resources.files("server") / "scripts"
    flags, _, body = (folder / f"{name}.lua").read_text("utf-8").partition("\n")
    shared = (folder / "shared.lua").read_text("utf-8")
    return Script(name, f"{flags}\n{shared}\n{body}")


def translated(error: Exception) -> QueueError | None:
    """The queue's error for one of Redis's, None where it is a fault of ours that must be seen as it is."""
    if isinstance(error, OutOfMemoryError):
        return QueueUnavailable("Redis is at its memory limit and takes no new work; running jobs go on", 10.0)
    if isinstance(error, TIMEOUTS):
        return QueueUnavailable("Redis did not answer in time: it is overloaded, hangs, or is away")
    if isinstance(error, TRANSIENT):
        return QueueUnavailable("Redis is not reachable", reason=str(error) or type(error).__name__)
    if isinstance(error, ResponseError) and str(error).startswith(TRANSIENT_CODES):
        return QueueUnavailable("Redis cannot take this now", reason=str(error))
    if isinstance(error, ResponseError) and "OUT_OF_ORDER" in str(error):
        return OutOfOrder(str(error))
    return None


def is_of_replica(error: Exception) -> bool:
    """Whether who answered is a replica, as a primary is after a planned fail-over: it keeps its clients, and only a
    new connection to the same address leads to the primary.
    """
    return isinstance(error, ReadOnlyError | MasterDownError) or str(error).startswith(("READONLY", "MASTERDOWN"))


def backoff_s() -> Iterator[float]:
    """Seconds to wait between attempts: 0.05, doubled up to 1."""
    delay = 0.05
    while True:
        yield delay
        delay = min(delay * 2, 1.0)


def refuse_old_server(info: Mapping[str, Any]) -> None:
    """Raises ServerTooOld where INFO shows one older than Redis 7.0; a Valkey names the Redis it is compatible with."""
    version = str(info.get("redis_version", "0"))
    if is_too_old(version):
        raise ServerTooOld(version)


def is_too_old(version: str) -> bool:
    """Whether a server of that version, such as "7.2.4", lacks what the scripts need."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST_REDIS
