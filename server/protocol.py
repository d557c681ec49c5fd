"""uvicorn's HTTP protocol and server, with what it and ASGI have no word for.

A client that has stopped reading can be cut off: its connection's `abort` stands in the scope's extensions, since
an orderly close would wait for it to read. So that it is found out soon, a stream has the system keep little for it
(`keep_little`): left alone, the kernel takes up to 4 MB for each before anyone notices. A client that sends headers
without end is refused, since the parser would keep them all. What follows a body is no header, lest it pass by a proxy
that looks at headers. What the parser cannot read is refused in the shape of every other error. And streams are told of
a shutdown before uvicorn begins to wait for them to end.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.errors import PROBLEM_TYPE, REQUEST_ID_KEY, json_bytes, problem, status_of
from server.faults import ApiError
from server.sse import CONNECTION_EXTENSION

# Far above what guard.py refuses in the one shape; one read may bring 256 KiB.
MAX_UNPARSED_BYTES: Final = 1024 * 1024
STREAM_BUFFER_BYTES: Final = 128 * 1024  # which Linux doubles; over 100 ms of network still more than 1 MB a second


class AbortableProtocol(HttpToolsProtocol):
    """HTTP/1.1 over httptools, whose requests can cut their connection."""

    _unparsed_bytes = 0
    """Received since the parser last gave us a whole head or a piece of a body."""
    _is_in_head = True

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self._unparsed_bytes > MAX_UNPARSED_BYTES and not self.transport.is_closing():
            self._refuse(ApiError("headers_too_large", f"the head has more than {MAX_UNPARSED_BYTES:,} bytes"))

    def send_400_response(self, msg: str) -> None:
        """What the parser cannot read is answered in the one shape; there is no request yet to pass to the app."""
        self._refuse(ApiError("bad_request", f"{msg} Send HTTP/1.1, without TLS."))

    def _refuse(self, error: ApiError) -> None:
        status, request_id = HTTPStatus(status_of(error.code)), secrets.token_hex(16)
        body = json_bytes(problem(error, {"path": "", REQUEST_ID_KEY: request_id}))
        head = (
            f"HTTP/1.1 {status} {status.phrase}\r\nContent-Type: {PROBLEM_TYPE}\r\nContent-Length: {len(body)}\r\n"
            f"Cache-Control: no-store\r\nX-Request-ID: {request_id}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def on_message_begin(self) -> None:
        """A request begins: uvicorn makes its scope."""
        super().on_message_begin()
        self._is_in_head = True
        self.scope["extensions"] = {
            CONNECTION_EXTENSION: {"abort": self.transport.abort, "keep_little": self._keep_little}
        }

    def _keep_little(self) -> None:
        """Bound what the system holds of what was sent and not read."""
        connection = self.transport.get_extra_info("socket")
        if connection is not None:
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, STREAM_BUFFER_BYTES)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header came, or a trailer, which uvicorn would put among the headers before the app looks at them."""
        if self._is_in_head:
            super().on_header(name, value.strip(b" \t"))  # which belongs to no value; the parser leaves it at the end

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._is_in_head = False
        self._unparsed_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body came."""
        self._unparsed_bytes = 0
        super().on_body(body)


class ApiServer(Server):
    """A server that says so before it waits for its connections to end."""

    def __init__(self, config: Config, on_shutdown: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_shutdown = on_shutdown

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop taking connections, have streams end, wait for them, and end the app."""
        for server in self.servers:
            server.close()
        self._on_shutdown()
        await super().shutdown(sockets)
