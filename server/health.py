"""Asking our own processes how they are, over their health routes: short time-outs, and no answer is an answer."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any, Final

TIMEOUT_S: Final = 1.0


@dataclass(frozen=True)
class Startup:
    """What a worker says on /startupz."""

    is_done: bool
    loaded_bytes: int = 0
    total_bytes: int = 0

    @property
    def share(self) -> float:
        """How much of the weights is loaded, 0 to 1."""
        return self.loaded_bytes / self.total_bytes if self.total_bytes else 0.0


def is_up(host: str, port: int) -> bool:
    """Whether a process answers 200 on /livez."""
    answer = _get(host, port, "/livez")
    return answer is not None and answer[0] == http.HTTPStatus.OK


def startup(host: str, port: int) -> Startup | None:
    """How far the worker is with its start, or None where it does not answer yet."""
    answer = _get(host, port, "/startupz")
    if answer is None:
        return None
    status, body = answer
    return Startup(
        is_done=status == http.HTTPStatus.OK,
        loaded_bytes=int(body.get("loaded_bytes") or 0),
        total_bytes=int(body.get("total_bytes") or 0),
    )


def _get(host: str, port: int, path: str) -> tuple[int, dict[str, Any]] | None:
    """Status and JSON body (empty where it is no object), or None without an answer."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host).strip("[]")  # noqa: S104 -- where we listen
    connection = http.client.HTTPConnection(local, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    try:
        body = json.loads(text)
    except ValueError:
        body = {}
    return response.status, body if isinstance(body, dict) else {}
