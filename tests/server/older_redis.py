"""A Redis that is too old by its own words: a real one, whose answers name another major version on their way."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

_NEW: Final = b"redis_version:7."
_OLD: Final = b"redis_version:6."  # no longer, for the answer's length stands before it


class _Between(socketserver.BaseRequestHandler):
    """One connection."""

    def handle(self) -> None:
        assert isinstance(self.server, _Older)
        with socket.socket(socket.AF_UNIX) as behind:
            behind.connect(str(self.server.behind))
            asking = threading.Thread(target=_pass, args=(self.request, behind))
            asking.start()
            _pass(behind, self.request)
            asking.join()


class _Older(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, at: Path, behind: Path) -> None:
        super().__init__(str(at), _Between)
        self.behind = behind


def _pass(given: socket.socket, to: socket.socket) -> None:
    with suppress(OSError):
        while content := given.recv(65536):
            to.sendall(content.replace(_NEW, _OLD))
    with suppress(OSError):  # it has gone
        to.shutdown(socket.SHUT_WR)


@contextmanager
def older(url: str) -> Iterator[str]:
    """Where the server at `url` says that it is a Redis of version 6."""
    behind = Path(url.removeprefix("unix://").partition("?")[0])
    # A path of its own: on some systems a socket's has 104 bytes at the most.
    with TemporaryDirectory(prefix="r3-") as folder, _Older(at := Path(folder) / "older", behind) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.02,))
        serving.start()
        try:
            yield f"unix://{at}"
        finally:
            server.shutdown()
            serving.join()
