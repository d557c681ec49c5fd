"""A server for the length of a run: `r3 serve` as a child, on free ports of this machine, with a queue of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

from server import child
from server.misconfigured import Misconfigured

_READY: Final = re.compile(r"^r3  ready: (\S+)$", re.MULTILINE)
_POLL_S: Final = 0.1
_GRACE_S: Final = 120.0  # it finishes the rounds in hand
_HURRY_S: Final = 10.0
# Who may reach a server and where it keeps things is settled here; models, devices and memory are as they are set.
_WORKER: Final = ("R3_WORKER_HOST", "R3_WORKER_PORT", "R3_METRICS_HOST", "R3_METRICS_PORT")
_REACHED: Final = (
    "R3_AUTH",
    "R3_HOST",
    "R3_INSECURE",
    "R3_KEYS_FILE",
    "R3_PORT",
    "R3_PUBLIC_URL",
    "R3_REQUESTS_PER_MIN",
)
_KEPT: Final = ("R3_DATA_DIR", "R3_DEFAULT_MODEL", "R3_REDIS_URL")
_STORED: Final = ("R3_IMAGE_STORE", "R3_IMAGE_STORE_ENDPOINT", "R3_IMAGE_STORE_REGION")
_OURS: Final = frozenset((*_WORKER, *_REACHED, *_KEPT, *_STORED))


@contextmanager
def own_server(
    data_dir: Path, options: Mapping[str, str], variables: Mapping[str, str | None] = MappingProxyType({})
) -> Iterator[str]:
    """Its address; it is stopped with the block. `options` are those of `r3 serve`; `variables` are put into its
    environment, or taken out where they are None. What it says goes to a log in its data directory. Raises
    Misconfigured where it does not come up.
    """
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = data_dir / "serve.log"
    inherited = {name: value for name, value in os.environ.items() if name not in _OURS}
    environment = {name: value for name, value in {**inherited, **variables}.items() if value is not None}
    given = {"port": "0", "worker-port": "0", "data-dir": str(data_dir.absolute()), **options}
    command = [sys.executable, "-P", "-m", "server.cli", "serve"]
    command += [part for name, value in given.items() for part in (f"--{name}", value)]
    with log.open("wb") as output:
        process = child.spawn(command, environment=environment, output=output)
    try:
        yield _address(process, log)
    finally:
        _stop(process)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    while process.poll() is None:
        if ready := _READY.search(log.read_text(errors="replace")):
            return ready[1]
        time.sleep(_POLL_S)
    said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("r3")]
    last = said[-1].removeprefix("r3").lstrip(": ") if said else "it said nothing"
    raise Misconfigured(
        f"the server for this run did not come up: {last} (its log: {log}); or name one with --url/R3_URL"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End it; a second Ctrl-C has it end at once."""
    try:
        child.stop(process, _GRACE_S)
    except KeyboardInterrupt:
        child.stop(process, _HURRY_S)  # being asked twice, it waits for nothing
