"""What is refused before any route is asked: too many headers, a foreign Host or Origin, a body over the limit.

Where no key is asked for the server trusts whoever can reach it, so a page elsewhere must not be able to: neither by a
request of its own (its Origin gives it away) nor by pointing a name of its own at this machine (then the Host is that
name). An address stands for itself, and is let in where other machines reach the server. Probes may say anything, so
health routes answer any Host. Where keys are asked for, a page elsewhere has none, and the server may have any names;
then Host and Origin are looked at only if R3_ALLOWED_HOSTS says which.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.callers import CALLER, Caller
from server.doors import HEALTH_PATHS
from server.errors import problem_response
from server.faults import ApiError
from server.settings import LOOPBACK_HOSTS, Settings

BODY_WITHIN_S: Final = 300.0  # 32 MiB at 1 Mbit/s take 270
AT_ONCE: Final = 6  # of the largest bodies that are allowed, of one tenant
_LET_GO: Final = "r3.let_go_of_body"  # where it is in a request's ASGI scope
MAX_HEADERS: Final = 100
MAX_HEADER_BYTES: Final = 64 * 1024


class Guard:
    """Refuses by headers alone. `asks_for_keys` says whether callers have to show one."""

    def __init__(self, app: ASGIApp, settings: Settings, asks_for_keys: Callable[[], bool]) -> None:
        self._app = app
        self._asks_for_keys = asks_for_keys
        self._names_hosts = bool(settings.allowed_hosts)
        self._hosts = _host_names((*LOOPBACK_HOSTS, *settings.allowed_hosts, *_public_names(settings.public_url)))
        self._is_reached = not settings.is_loopback and not settings.allowed_hosts
        self._origins = frozenset(origin.rstrip("/").lower() for origin in settings.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and (error := self._refusal(scope)) is not None:
            await problem_response(error, scope)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        count, size = len(scope["headers"]), sum(len(name) + len(value) for name, value in scope["headers"])
        size += len(scope["path"]) + len(scope["query_string"])  # which is read by whoever is not let in yet
        if count > MAX_HEADERS or size > MAX_HEADER_BYTES:
            return ApiError(
                "headers_too_large",
                f"the request has {count} headers of {size:,} bytes, its path included; "
                f"at most {MAX_HEADERS} of {MAX_HEADER_BYTES:,} bytes are read",
            )
        if scope["path"] in HEALTH_PATHS or (self._asks_for_keys() and not self._names_hosts):
            return None
        headers = Headers(scope=scope)
        return self._foreign_host(headers) or self._foreign_origin(headers)

    def _foreign_host(self, headers: Headers) -> ApiError | None:
        hosts = headers.getlist("host")
        if len(hosts) == 1 and self._may_be_ours(_name_of(f"//{hosts[0]}")):
            return None
        return ApiError(
            "host_not_allowed",
            f"Host is {', '.join(hosts)[:200]!r}; use {', '.join(sorted(self._hosts))}, "
            "or let the operator name it in R3_ALLOWED_HOSTS",
        )

    def _foreign_origin(self, headers: Headers) -> ApiError | None:
        host = _name_of(f"//{headers.get('host')}")
        for origin in headers.getlist("origin"):
            name = _name_of(origin)
            is_ours = name in self._hosts or (name == host and self._may_be_ours(name))
            if origin.lower() not in self._origins and not is_ours:
                return ApiError(
                    "origin_not_allowed",
                    f"Origin is {origin[:200]!r}; only pages of this server may call it, "
                    "or of an origin that the operator names in R3_CORS_ORIGINS",
                )
        return None

    def _may_be_ours(self, name: str | None) -> bool:
        """Whether a host of that name may be this server: where others reach it and no names are given, an address too,
        for no page has one for its name that is not served from there.
        """
        return name in self._hosts or (self._is_reached and name is not None and _is_address(name))


def let_go_of_body(scope: Scope) -> None:
    """Say that nothing is kept any more of the request's body."""
    scope.get(_LET_GO, lambda: None)()


class BodyLimit:
    """Counts a body while it is read, so that neither a missing nor a false Content-Length gets past the limit.

    It has to be complete after a while, and what one tenant's requests hold in memory is bounded, however many they
    are: until whoever read it calls `let_go_of_body`, or the request is over. To be asked behind the door, which says
    whose it is. What is sent with a read is kept by nobody.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._held: Counter[str] = Counter()  # bytes by tenant

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self._max_bytes:
            await problem_response(self._too_large(f"{announced[:20]} bytes are announced"), scope)(
                scope, receive, send
            )
            return
        caller: Caller | None = scope.get(CALLER)
        tenant = "" if caller is None else caller.tenant
        read, held, is_whole, began_s = 0, 0, False, asyncio.get_running_loop().time()

        def let_go() -> None:
            nonlocal held
            self._held[tenant] -= held
            held = 0
            if self._held[tenant] <= 0:
                del self._held[tenant]

        async def counted() -> Message:
            nonlocal read, held, is_whole
            if is_whole:
                return await receive()  # which tells when the client goes
            try:
                async with asyncio.timeout_at(began_s + BODY_WITHIN_S):
                    message = await receive()
            except TimeoutError:
                raise ApiError("bad_request", f"the body was not complete within {BODY_WITHIN_S:g} s") from None
            came = len(message.get("body", b""))
            read, held, is_whole = read + came, held + came, not message.get("more_body")
            self._held[tenant] += came
            if read > self._max_bytes:
                raise self._too_large(f"more than {self._max_bytes} bytes came")
            if self._held[tenant] > AT_ONCE * self._max_bytes:
                raise self._too_many()
            return message

        scope[_LET_GO] = let_go
        try:
            await self._app(scope, counted, send)
        finally:
            let_go()

    def _too_many(self) -> ApiError:
        most = AT_ONCE * self._max_bytes
        detail = f"bodies of more than {most:,} bytes are being read at once; send the next when some have been"
        return ApiError("rate_limited", detail, headers={"Retry-After": "2"})

    def _too_large(self, what: str) -> ApiError:
        return ApiError("payload_too_large", f"{what}; a body may have {self._max_bytes} bytes")


def _host_names(names: Iterable[str]) -> frozenset[str]:
    """As `_name_of` gives them: lower case, IPv6 without brackets."""
    return frozenset(name.strip("[]").lower() for name in names)


def _public_names(url: str | None) -> list[str]:
    """The host of the address that others use, as browsers send it."""
    name = (urlsplit(url).hostname or "").rstrip(".") if url is not None else ""
    with suppress(UnicodeError):  # a label that is too long, or empty
        return [name, name.encode("idna").decode("ascii")] if name else []
    return [name]


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _name_of(url: str) -> str | None:
    """The host's name in an URL, None where it has none or is none ("null", or nonsense)."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 -- raises for a port that is none
        has_more = parts.username or parts.path.strip("/") or parts.query or parts.fragment
        return None if has_more else (parts.hostname or "").rstrip(".") or None
    except ValueError:
        return None
