"""One attempt to deliver a webhook: resolve once, judge every address, connect to what was judged, POST, look at the
status.

Nothing between the judgement and the connection asks a resolver again; TLS is verified against the name all the same.
Redirects are not followed and no proxy of the environment's is used, for httpcore knows neither by itself.
Of an answer little is read, and in small pieces: a receiver that sends thousands of the smallest parts (`100 Continue`,
chunks of one byte) would keep the event loop, and everyone's requests with it, busy for seconds.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final

import httpcore

from server.hook_rules import Address, Allowed, Target

CONNECT_S: Final = 5.0
ATTEMPT_S: Final = 20.0
LAST_WORDS_S: Final = 1.0  # for the rest of an answer whose status is known
ANSWER_BYTES: Final = 64 * 1024
PIECE_BYTES: Final = 2048  # as many as are taken apart before others have their turn
PART_BYTES: Final = 256  # what a part of an answer's body counts at least
ADDRESSES_TRIED: Final = 4

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
Heard = Callable[[int], None]


class NotSent(Exception):
    """An attempt without an answer. The message may be logged: it names the host and nothing else of the URL."""


class NotAllowed(NotSent):
    """The attempt was not made: the URL leads where webhooks may not go."""


class Sender:
    """Sends to where the operator allows. `tls` is what certificates are verified with."""

    def __init__(self, allowed: Allowed, tls: ssl.SSLContext, resolve: Resolve | None = None) -> None:
        self._allowed = allowed
        self._tls = tls
        self._resolve = resolve or resolved

    async def post(self, url: str, headers: Mapping[str, str], content: bytes, heard: Heard | None = None) -> int:
        """The status of the answer, whatever it is. Raises NotSent, NotAllowed.

        `heard` is told it at once, while the rest of the answer is still read: who is cancelled then knows it too.
        """
        target = self._judged(url)
        seen: list[int] = []

        def note(status: int) -> None:
            seen.append(status)
            if heard is not None:
                heard(status)

        try:
            async with asyncio.timeout(ATTEMPT_S):
                await self._post(target, await self._addresses(target), headers, content, note)
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as error:
            if not seen:  # else the answer was cut off behind its status, which is what counts
                raise NotSent(f"{target.host}: {_said(error)}") from error
        return seen[0]

    def _judged(self, url: str) -> Target:
        try:
            target = Target.parse(url)
        except ValueError as error:
            raise NotAllowed(f"the URL {error}") from error
        if refusal := self._allowed.refusal(target):
            raise NotAllowed(f"the URL {refusal}")
        return target

    async def _addresses(self, target: Target) -> list[Address]:
        """What the host resolves to, asked once. Raises NotAllowed where any of it may not be reached."""
        literal = target.literal
        found = [str(literal)] if literal is not None else await self._resolve(target.host, target.port)
        addresses = [ip_address(text) for text in dict.fromkeys(found)]
        for address in addresses:
            if not self._allowed.reaches(address):
                raise NotAllowed(f"{target.host} resolves to {address}, which is not public and in no allowed network")
        if not addresses:
            raise NotSent(f"{target.host} resolves to no address")
        return addresses[:ADDRESSES_TRIED]

    async def _post(
        self,
        target: Target,
        addresses: Sequence[Address],
        headers: Mapping[str, str],
        content: bytes,
        heard: Heard,
    ) -> None:
        """Tries one address after the other until one can be connected to; tells `heard` the status."""
        for number, address in enumerate(addresses, start=1):
            try:
                async with self._pool(address) as pool:
                    await _ask(pool, target, headers, content, heard)
                return
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(addresses):
                    raise

    def _pool(self, address: Address) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(
            ssl_context=self._tls, network_backend=_Pinned(str(address)), max_connections=1, retries=0
        )


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects to one address, whatever name is asked for."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        del host
        return _Bounded(await self._plain.connect_tcp(self._address, port, timeout, local_address, socket_options))

    async def sleep(self, seconds: float) -> None:
        await self._plain.sleep(seconds)


class _Bounded(httpcore.AsyncNetworkStream):
    """A connection of which ANSWER_BYTES are read at most, PIECE_BYTES at a time."""

    def __init__(self, plain: httpcore.AsyncNetworkStream) -> None:
        self._plain = plain
        self._left = ANSWER_BYTES

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - the interface's
        if self._left <= 0:
            raise httpcore.ReadError(f"its answer is longer than {ANSWER_BYTES:,} bytes")
        await asyncio.sleep(0)  # what TLS has decrypted already is read without waiting
        piece = await self._plain.read(min(max_bytes, PIECE_BYTES, self._left), timeout)
        self._left -= len(piece)
        return piece

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the interface's
        await self._plain.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._plain.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface's
    ) -> httpcore.AsyncNetworkStream:
        return _Bounded(await self._plain.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._plain.get_extra_info(info)


async def _ask(
    pool: httpcore.AsyncConnectionPool, target: Target, headers: Mapping[str, str], content: bytes, heard: Heard
) -> None:
    url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
    times = {"connect": CONNECT_S, "read": ATTEMPT_S, "write": ATTEMPT_S, "pool": ATTEMPT_S}
    given = [("Host", target.authority), *headers.items(), ("Accept", "*/*"), ("Connection", "close")]
    async with pool.stream("POST", url, headers=given, content=content, extensions={"timeout": times}) as answer:
        heard(answer.status)
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await _hear_out(answer)


async def _hear_out(answer: httpcore.Response) -> None:
    """Read a little of the answer, so that a receiver is not cut off for saying thanks."""
    left = ANSWER_BYTES
    async for part in answer.aiter_stream():
        left -= max(len(part), PART_BYTES)
        if left <= 0:
            return


async def resolved(host: str, port: int) -> Sequence[str]:
    """What the system's resolver says. Raises OSError.

    In a thread of its own that nobody waits for at the end: a dead resolver is asked for half a minute, which neither
    the pool that reads pictures nor the end of the process should wait.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Sequence[str]] = loop.create_future()

    def tell(found: Sequence[str], error: OSError | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(found)
        else:
            answer.set_exception(error)

    def ask() -> None:
        found: Sequence[str] = ()
        failed: OSError | None = None
        try:
            found = [str(row[4][0]) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except OSError as error:
            failed = error
        except UnicodeError as error:  # the resolver's own idea of what a name may be
            failed = OSError(str(error))
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(tell, found, failed)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    return await answer


def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """What certificates are verified with: the usual authorities, and those of a file. Raises OSError."""
    import httpx

    context = httpx.create_ssl_context(trust_env=False)
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context


def _said(error: Exception) -> str:
    """What went wrong, in a few words."""
    if isinstance(error, (httpcore.TimeoutException, TimeoutError)):
        return "it did not answer in time"
    return str(error)[:200] or type(error).__name__
