"""Server-sent events on the wire: frames, heartbeats, and the answer that sends them (WHATWG HTML, section 9.2).

A heartbeat is a comment line with ONE newline: a block of its own would dispatch nothing in a browser, but the
`openai` clients raise on it; for the same reason `retry:` stands only inside a real event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.errors import json_bytes

if TYPE_CHECKING:
    from server.hub import Follower
    from server.metrics import Metrics
    from server.queue import Event

HEARTBEAT: Final = b": hb\n"
RETRY_MS: Final = 2000
CONNECTION_EXTENSION: Final = "r3.connection"  # what protocol.py lets us do to the connection itself
_LOOKS_LIKE_NEWLINE: Final = [(c.encode(), b"\\u%04x" % ord(c)) for c in "\x85\u2028\u2029"]
HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def frame(event: Event, number: int | None = None) -> bytes:
    """One event as it is sent; JSON holds no raw newline, so it is one data line.

    Three characters that are no newlines here are taken for such by many a client, so they are escaped.
    """
    head = b"" if number is None else b"id: %d\n" % number
    data = json_bytes(event.data)
    for raw, escaped in _LOOKS_LIKE_NEWLINE:
        data = data.replace(raw, escaped)
    return b"%sevent: %s\ndata: %s\n\n" % (head, event.name.encode(), data)


def with_retry(first: bytes) -> bytes:
    """The first frame of a stream, with the time after which a browser is to come back."""
    return b"retry: %d\n%s" % (RETRY_MS, first)


class Frames(Protocol):
    """Where the answer's bytes come from (stream.py)."""

    follower: Follower

    def chunks(self) -> AsyncIterator[bytes]:
        """Frames and heartbeats, until the stream is at its end."""
        ...

    def close(self) -> None:
        """Called once, when nothing more will be sent."""
        ...


class EventStreamResponse(Response):
    """Sends a stream's chunks until it ends or the client hangs up; then `on_hang_up` is called."""

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: Frames,
        metrics: Metrics,
        headers: Mapping[str, str],
        on_hang_up: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(headers={**HEADERS, **headers}, media_type=self.media_type)
        del self.headers["content-length"]
        self._frames = frames
        self._metrics = metrics
        self._on_hang_up = on_hang_up

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream, or its headers alone to who asks for no more."""
        if scope["method"] == "HEAD":
            self._frames.close()
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        follower = self._frames.follower
        connection = scope.get("extensions", {}).get(CONNECTION_EXTENSION, {})
        follower.abort = connection.get("abort")
        if (keep_little := connection.get("keep_little")) is not None:
            keep_little()
        listener = asyncio.create_task(until_hang_up(receive))
        listener.add_done_callback(lambda _: follower.hang_up())
        self._metrics.streams.inc()
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for chunk in self._frames.chunks():
                follower.sending_since = time.monotonic()
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                follower.last_sent_at, follower.sending_since = time.monotonic(), None
            was_left = follower.has_hung_up and follower.closing is None
            if not follower.has_hung_up:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            follower.sending_since = None
            self._metrics.streams.dec()
            listener.cancel()
            self._frames.close()
        if was_left and self._on_hang_up is not None:
            self._on_hang_up()


async def until_hang_up(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
