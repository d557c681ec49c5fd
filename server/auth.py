"""The door: no request passes it unless its path is open to everyone, or it is known who asks.

Behind it every request's scope says who called, and the routes ask what that caller may (callers.py). A path that is
not listed as open is closed, also one that no route has: strangers learn nothing of what there is. Whoever is let in is
counted against their limit, and the answer tells them how they stand.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.authority import Authority
from server.callers import CALLER
from server.doors import is_open
from server.errors import problem_response, queue_problem_response
from server.faults import ApiError
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
            await self._app(scope, receive, telling_limits)
