"""uvicorn's HTTP protocol and server, with what it and ASGI have no word for.

A client that has stopped reading can be cut off: its connection's `abort` stands in the scope's extensions, since
an orderly close would wait for it to read. So that it is found out soon, a stream has the system keep little for it
(`keep_little`): left alone, the kernel takes up to 4 MB for each before anyone notices. A client that sends headers
without end is refused, since the parser would keep them all. What follows a body is no header, lest it pass by a proxy
that looks at headers. Who offers another protocol by `Upgrade`, as Java's client and `curl --http2` do, is answered in
this one; the parser would take the body for that protocol's. Who connects and says nothing, or never comes to the end
of a head, is cut off: uvicorn waits for it for ever. What the parser cannot read is refused in the shape of every other
error. And streams are told of a shutdown before uvicorn begins to wait for them to end.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from server.errors import PROBLEM_TYPE, REQUEST_ID_KEY, json_bytes, problem, status_of
from server.faults import ApiError
from server.sse import CONNECTION_EXTENSION

# Far above what guard.py refuses in the one shape; one read may bring 256 KiB.
MAX_UNPARSED_BYTES: Final = 1024 * 1024
HEAD_WITHIN_S: Final = 30.0
STREAM_BUFFER_BYTES: Final = 128 * 1024  # which Linux doubles; over 100 ms of network still more than 1 MB a second


class AbortableProtocol(HttpToolsProtocol):
    """HTTP/1.1 over httptools, whose requests can cut their connection."""

    _unparsed_bytes = 0
    """Received since the parser last gave us a whole head or a piece of a body."""
    _is_in_head = True
    _repeats_head = False
    """Whether a parser is told a head that is known, so that it goes on behind it."""
    _is_tunnel = False
    _head_is_late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody connected."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._await_no_head()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self._head_is_late is None:
            self._head_is_late = self.loop.call_later(HEAD_WITHIN_S, self._cut_off)

    def _cut_off(self) -> None:
        """There was no head in time; who is being answered may take as long as that takes."""
        self._head_is_late = None
        if self._is_answering:
            self._await_head()
        else:
            self.transport.abort()

    @property
    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return bool(self.pipeline) or (cycle is not None and not cycle.response_complete)

    def _await_no_head(self) -> None:
        if self._head_is_late is not None:
            self._head_is_late.cancel()
            self._head_is_late = None

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._unparsed_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except HttpParserError:
            message = "Invalid HTTP request received."
            self.logger.warning(message)
            self.send_400_response(message)
        if self._unparsed_bytes > MAX_UNPARSED_BYTES and not self.transport.is_closing():
            self._refuse(ApiError("headers_too_large", f"the head has more than {MAX_UNPARSED_BYTES:,} bytes"))
        # What came behind an answer, such as the body of a refused request, has struck uvicorn's own limit.
        if not (self.transport.is_closing() or self._is_answering or self.timeout_keep_alive_task):
            self._await_head()

    def _feed(self, data: bytes) -> None:
        """A parser ends with the head of a request that offers an upgrade, and another goes on with its body: an offer
        may be passed over (RFC 9110, 7.8).
        """
        while data and not self._is_tunnel:
            try:
                return self.parser.feed_data(data)
            except HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
                if self.parser.get_method() == b"CONNECT":  # refused, and what follows is not meant for us
                    self._is_tunnel, self.cycle.keep_alive = True, False
                else:
                    self.parser = self._behind_this_head()
        return None

    def _behind_this_head(self) -> HttpRequestParser:
        framing = [one for one in self.headers if one[0] in (b"content-length", b"transfer-encoding")]
        if not self.cycle.keep_alive:
            framing.append((b"connection", b"close"))
        parser = HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self._repeats_head = True
        try:
            parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % one for one in framing))
        finally:
            self._repeats_head = False
        return parser

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
        if self._repeats_head:
            return
        super().on_message_begin()
        self._await_head()
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

    def on_url(self, url: bytes) -> None:
        """A piece of the address came."""
        if not self._repeats_head:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header came, or a trailer, which uvicorn would put among the headers before the app looks at them."""
        if self._is_in_head:
            super().on_header(name, value.strip(b" \t"))  # which belongs to no value; the parser leaves it at the end

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self._repeats_head:
            return
        self._await_no_head()
        self._is_in_head = False
        self._unparsed_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body came."""
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole; one that offers an upgrade is when the parser that goes on with it says so."""
        if self._repeats_head or not self.parser.should_upgrade() or self.parser.get_method() == b"CONNECT":
            super().on_message_complete()


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
