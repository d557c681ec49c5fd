"""Who a request's caller is: by a key, by a session, by a link, or, where nobody is asked for a key, everyone the same.

A key comes in the one `Authorization` header, or a session's cookie stands in for it; on paths that can be linked to, a
`?token=` that is good is enough. Of a
key or a token that is not good no more is said than that: who shows a token that leads nowhere is told what everyone is
told of a job that never was.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers, QueryParams
from starlette.types import Scope as AsgiScope

from server.callers import LOCAL, Caller, Link
from server.doors import takes_link
from server.faults import ApiError
from server.key_ring import KeyRing, Ring
from server.keys import KeysUnreadable, Scope, key_shown
from server.links import Linked
from server.queue_errors import RateLimited
from server.rate_limits import REQUESTS, Limit
from server.sessions import sessions_shown
from server.settings import Settings

if TYPE_CHECKING:
    from server.queue import Queue

_BEARER: Final = re.compile(r"bearer +(\S+)", re.IGNORECASE)
_MADE_BY_HAND: Final = re.compile(r"[A-Za-z0-9_-]{43}")  # a token of routes/share.py
_READ: Final[frozenset[Scope]] = frozenset({"read"})
_RETRY_S: Final = "2"


class Authority:
    """Says who asks, as keys and links stand at that moment. `connect` it before it is asked."""

    def __init__(self, settings: Settings) -> None:
        self._per_min, self._public_url = settings.requests_per_min, settings.public_url
        self._ring = KeyRing(settings)
        self._queue: Queue | None = None

    def connect(self, queue: Queue) -> None:
        """Say where keys and links are."""
        self._queue = queue
        self._ring.connect(queue.keys)

    async def keep_fresh(self) -> None:
        """Look for keys that were made or revoked, for ever."""
        await self._ring.keep_fresh()

    async def close(self) -> None:
        """Look no more; to be called before the queue is closed."""
        await self._ring.close()

    @property
    def asks_for_keys(self) -> bool:
        """Whether keys are known to be asked for."""
        return self._ring.is_on

    async def caller_of(self, scope: AsgiScope) -> Caller:
        """The caller. Raises ApiError unauthorized or keys_unavailable, and QueueUnavailable."""
        ring = await self.ring()
        if takes_link(scope["method"], scope["path"]) and (tokens := _tokens_of(scope)):
            linked = await self._linked(ring, tokens[0]) if len(tokens) == 1 else None
            if linked is not None:
                return Caller(linked.tenant, None, _READ, Link(linked.job, tokens[0]))
            if not self._has_key(scope):
                return Caller("", None, _READ, Link("", ""))  # nobody's, so that it sees nothing
        return self._by_key(scope, ring) if ring.is_on else LOCAL

    async def count(self, caller: Caller) -> Limit | None:
        """Count a request of this caller's, and say how they stand; None where it is not limited.

        Raises RateLimited, and as `caller_of` does.
        """
        bucket, per_min = self._bucket(await self.ring(), caller)
        if bucket is None or per_min is None or self._queue is None:
            return None
        admitted, limit = await self._queue.keys.admit(REQUESTS, bucket, per_min)
        if not admitted:
            raise RateLimited(limit)
        return limit

    async def no_longer_good(self, callers: Iterable[Caller]) -> set[Caller]:
        """Those who came in some time ago and would not be let in now. Raises as `caller_of` does."""
        ring = await self.ring()
        return {caller for caller in set(callers) if not await self._is_good(ring, caller)}

    async def ring(self) -> Ring:
        """The keys that are good. Raises ApiError keys_unavailable, and QueueUnavailable."""
        try:
            return await self._ring.now()
        except KeysUnreadable as error:
            raise ApiError(
                "keys_unavailable",
                "the keys cannot be read, so that nobody can be let in; the server's log says why",
                headers={"Retry-After": _RETRY_S},
            ) from error

    def link_token(self, caller: Caller, tenant: str, job_id: str) -> str | None:
        """What the links of an answer to this caller carry: what they came with, or one that is signed now."""
        if caller.link is not None:
            return caller.link.token
        links = self._ring.links
        return None if links is None else links.token(tenant, job_id, time.time())

    def _bucket(self, ring: Ring, caller: Caller) -> tuple[str | None, int | None]:
        """What a caller's requests are counted in, and how many a minute it takes."""
        if caller.link is not None:
            return (f"link:{caller.link.job}" if caller.link.job else None), self._per_min
        key = ring.keys.get(caller.key) if caller.key is not None else None
        return (None, None) if key is None else (f"key:{key.id}", key.requests_per_min or self._per_min)

    def _by_key(self, scope: AsgiScope, ring: Ring) -> Caller:
        given = Headers(scope=scope).getlist("authorization")
        if not given and (sessions := sessions_shown(scope, self._public_url)):
            return _by_session(sessions, ring)
        if len(given) != 1:
            many = "an Authorization header is there more than once; send one"
            raise refused(many if given else "no key is there; send it as Authorization: Bearer <key>")
        bearer = _BEARER.fullmatch(given[0])
        if bearer is None:
            raise refused("Authorization must be Bearer and the key")
        key = key_shown(bearer[1], ring.keys)
        if key is None:
            raise refused("this key is not known, or was revoked; use another", error="invalid_token")
        return Caller(key.tenant, key.id, frozenset(key.scopes))

    def _has_key(self, scope: AsgiScope) -> bool:
        return "authorization" in Headers(scope=scope) or bool(sessions_shown(scope, self._public_url))

    async def _is_good(self, ring: Ring, caller: Caller) -> bool:
        if caller.link is not None:
            return await self._linked(ring, caller.link.token) is not None
        if caller.key is None:
            return not ring.is_on
        key = ring.keys.get(caller.key)
        return key is not None and (key.tenant == caller.tenant or "admin" in key.scopes)

    async def _linked(self, ring: Ring, token: str) -> Linked | None:
        if ring.links is not None and (linked := ring.links.read(token, time.time())) is not None:
            return linked
        if self._queue is None or not _MADE_BY_HAND.fullmatch(token):
            return None
        found = await self._queue.shared(token)
        return None if found is None else Linked(*found)


def _by_session(sessions: list[str], ring: Ring) -> Caller:
    key = None if ring.sessions is None else ring.sessions.read_any(sessions, ring.keys, time.time())
    if key is None:
        raise refused("the session is over; sign in again", error="invalid_token")
    return Caller(key.tenant, key.id, frozenset(key.scopes))


def refused(detail: str, error: str = "") -> ApiError:
    """401, with the challenge that says how to do better."""
    challenge = 'Bearer realm="r3"' + (f', error="{error}"' if error else "")
    return ApiError("unauthorized", detail, headers={"WWW-Authenticate": challenge})


def _tokens_of(scope: AsgiScope) -> list[str]:
    return QueryParams(scope["query_string"]).getlist("token")
