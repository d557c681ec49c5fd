"""`r3 api`: the app under uvicorn, with limits, one log, and an end that leaves no stream hanging."""

from __future__ import annotations

import resource
import signal
from contextlib import suppress
from types import FrameType
from typing import Final

from starlette.types import ASGIApp
from uvicorn import Config

from server import collector
from server.app import close_streams, create_app
from server.logs import configure_logging
from server.protocol import AbortableProtocol, ApiServer
from server.settings import Settings

GRACE_S: Final = 8
BACKLOG: Final = 2048
FILES: Final = 65_536  # each stream is one; many systems allow 1,024 until a process asks for more


def run_api(settings: Settings) -> int:
    """Serve until SIGTERM or Ctrl-C; the exit code of the process.

    At the end streams get `stream.closing`, waiting requests are answered 202 (under /v1 503), and what still runs
    after GRACE_S is cut.
    """
    configure_logging(settings.log_level, settings.log_format)
    _allow_many_streams()
    app = create_app(settings)
    config = config_of(app, settings)
    server = ApiServer(config, lambda: close_streams(app))
    # uvicorn raises the signal that ended it once more when all is done; being asked to end is not dying.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ignore)
    collector.begin()  # going through all that is there by now would hold up every stream for 50 ms
    server.run()
    return 0 if server.started else 1


def config_of(app: ASGIApp, settings: Settings) -> Config:
    """How uvicorn serves the app."""
    return Config(
        app,
        host=settings.host.strip("[]"),
        port=settings.port,
        http=AbortableProtocol,
        ws="none",
        lifespan="on",
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE_S,
        forwarded_allow_ips=list(settings.trusted_proxies),  # left out, uvicorn believes whoever is on this machine
        server_header=False,
        access_log=False,
        log_config=None,
    )


def _allow_many_streams() -> None:
    """Raise the number of files that this process may open, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    with suppress(OSError, ValueError):  # macOS has a bound of its own, which it does not tell
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _ignore(_number: int, _frame: FrameType | None) -> None: ...
