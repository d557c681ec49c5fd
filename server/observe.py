"""The outermost layer of the app: every request gets an id, a log line, a count, and the headers that every answer
carries.

It is also where an exception that nobody foresaw becomes a 500 in the one shape; its traceback goes to the log
alone.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.callers import CALLER, Caller
from server.doors import HEALTH_PATHS
from server.errors import REQUEST_ID_KEY, problem_response
from server.faults import ApiError
from server.metrics import Metrics

log = structlog.get_logger("r3.api")

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET_PATHS: Final = HEALTH_PATHS | {"/metrics"}
# A page that is served here says otherwise for itself (routes/docs.py, routes/page.py).
_EVERYWHERE: Final = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Observe:
    """Ids, headers, logs and counts around the whole app."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[REQUEST_ID_KEY] = request_id = _request_id(scope)
        answer = _Answer(send, request_id)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, answer.send)
            except Exception:
                log.exception("unforeseen error", method=scope["method"], route=_route(scope))
                if answer.status is None:
                    detail = f"tell the operator the request id, {request_id}; the log says more"
                    await problem_response(ApiError("internal_error", detail), scope)(scope, receive, answer.send)
            finally:
                self._record(scope, answer)

    def _record(self, scope: Scope, answer: _Answer) -> None:
        route, code = _route(scope), str(answer.status or 499)  # 499: the client hung up before any answer
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(method, route, code).inc()
        if answer.first_byte_s is not None:
            self._metrics.first_byte.labels(route).observe(answer.first_byte_s)
        say = log.debug if scope["path"] in _QUIET_PATHS else log.info
        say(
            "request",
            method=method,
            route=route,
            path=scope["path"][:200],
            status=int(code),
            duration_ms=round((time.monotonic() - answer.began) * 1000, 1),
            bytes=answer.bytes,
            client=(scope.get("client") or ("", 0))[0],
            **_who(scope),
        )


class _Answer:
    """What goes out, and what of it is worth remembering."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.began = time.monotonic()
        self.status: int | None = None
        self.first_byte_s: float | None = None
        self.bytes = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.first_byte_s = time.monotonic() - self.began
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._request_id
            for name, value in _EVERYWHERE.items():
                headers.setdefault(name, value)
        else:
            self.bytes += len(message.get("body", b""))
        await self._send(message)


def _who(scope: Scope) -> dict[str, str]:
    """The caller's tenant, and the id of the key; nothing where no key was asked for."""
    caller: Caller | None = scope.get(CALLER)
    if caller is None or (caller.key is None and caller.link is None):
        return {}
    return {"tenant": caller.tenant, "key": caller.key or "link"}


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


def _route(scope: Scope) -> str:
    """The path's template, so that ids do not become labels."""
    return str(getattr(scope.get("route"), "path", "unmatched"))
