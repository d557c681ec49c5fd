"""The door: no request passes it unless its path is open to everyone, or it is known who asks.

Behind it every request's scope says who called, and the routes ask what that caller may (callers.py). A path that is
not listed as open is closed, also one that no route has: strangers learn nothing of what there is. Whoever is let in is
counted against their limit, and the answer tells them how they stand. Who takes their time over a body is looked at
again at its end: what began with a key that has been revoked since does nothing any more.
"""

from __future__ import annotations

import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.authority import Authority, refused
from server.callers import CALLER, Caller
from server.doors import is_open
from server.errors import problem_response, queue_problem_response
from server.faults import ApiError
from server.key_ring import POLL_S
from server.queue_errors import QueueError
from server.rate_limits import LIMITS, headers_of, note


class Auth:
    """Lets in and counts, or refuses."""

    def __init__(self, app: ASGIApp, authority: Authority) -> None:
        self._app = app
        self._authority = authority

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and is_open(scope["path"])):
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise AssertionError(f"nothing here speaks {scope['type']}, so nobody is let in by it")
        scope[LIMITS] = {}

        async def telling_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers_of(scope))
            await send(message)

        try:
            caller = scope[CALLER] = await self._authority.caller_of(scope)
            limit = await self._authority.count(caller)
        except ApiError as error:
            await problem_response(error, scope)(scope, receive, telling_limits)
        except QueueError as error:
            await queue_problem_response(error, scope)(scope, receive, telling_limits)
        else:
            note(scope, [] if limit is None else [limit])
            # The body of a read is nobody's concern, and hub.py looks after its stream.
            reads = scope["method"] in ("GET", "HEAD")
            await self._app(scope, receive if reads else self._while_let_in(caller, receive), telling_limits)

    def _while_let_in(self, caller: Caller, receive: Receive) -> Receive:
        """What the caller sends, for as long as they would be let in."""
        looked_at_s = time.monotonic()

        async def received() -> Message:
            nonlocal looked_at_s
            message = await receive()
            if message["type"] == "http.request" and time.monotonic() - looked_at_s > POLL_S:
                looked_at_s = time.monotonic()
                if await self._authority.no_longer_good([caller]):
                    raise refused("who sent this may no longer come in; use another key", error="invalid_token")
            return message

        return received
