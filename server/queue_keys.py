"""API keys, tenants' limits and rate limits in Redis. The names are described in `server/queue.py`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

import structlog
from redis.exceptions import RedisError

from server.keys import Key, KeysUnreadable, TenantLimits
from server.queue_link import Link
from server.rate_limits import Limit

log = structlog.get_logger("r3.queue")

_SECRET_BYTES: Final = 32

Created = Literal["first", "created", "again"]
Revoked = Literal["revoked", "not_found"]


@dataclass(frozen=True)
class StoredKeys:
    """Everything that Redis knows of who may come in, as of the change `changed`; `is_on` from the first key on."""

    is_on: bool = False
    changed: str = ""
    keys: Mapping[str, Key] = field(default_factory=dict)
    tenants: Mapping[str, TenantLimits] = field(default_factory=dict)
    secret: str = ""


class QueueKeys:
    """The part of the queue that says who may come in. Every method may raise QueueUnavailable."""

    def __init__(self, link: Link) -> None:
        self._run = link.run

    async def read(self, known: StoredKeys | None = None) -> StoredKeys:
        """All of it as it stands; `known` itself where nothing has changed since. Raises KeysUnreadable."""
        answer = await self._told("keys", "" if known is None else known.changed)
        if known is not None and len(answer) == 2:
            return known
        since, changed, keys, tenants, secret = answer
        return StoredKeys(bool(since), changed, _keys(keys), _tenants(tenants), secret)

    async def create(self, key: Key) -> Created:
        """Keeps a new key: `first` where authentication is on from now on."""
        return cast(Created, await self._run("key_create", key.id, key.to_json()))

    async def revoke(self, key: Key, at_ms: int) -> Revoked:
        """Makes a key no longer good."""
        return cast(Revoked, await self._run("key_revoke", key.id, key.revoked(at_ms).to_json()))

    async def limit_tenant(self, tenant: str, limits: TenantLimits | None) -> None:
        """Keeps what a tenant may have; None forgets it."""
        running = "" if limits is None or limits.running is None else limits.running
        await self._run("tenant_limits", tenant, "" if limits is None else limits.to_json(), running)

    async def token_secret(self) -> str:
        """What links are signed with: made by whoever asks first, the same for all processes. Raises KeysUnreadable."""
        return cast(str, await self._told("token_secret", secrets.token_hex(_SECRET_BYTES)))

    async def admit(self, policy: str, bucket: str, per_min: int) -> tuple[bool, Limit]:
        """Counts a request against a bucket that holds a minute's worth; whether it may go on, and what is left."""
        admitted, left, reset_s = await self._run("admit", bucket, per_min)
        return bool(admitted), Limit(policy, per_min, int(left), int(reset_s))

    async def _told(self, name: str, argument: str) -> Any:
        """What Redis answers who asks for keys; where it answers that it will not, nobody knows who may come in."""
        try:
            return await self._run(name, argument)
        except RedisError as error:
            raise KeysUnreadable(f"Redis does not tell the keys: {error}") from error


def _keys(flat: Sequence[str]) -> dict[str, Key]:
    found = {}
    for key_id, text in zip(flat[::2], flat[1::2], strict=True):
        try:
            found[key_id] = Key.from_json(key_id, text)
        except ValueError as error:  # a newer version's: nobody comes in by it here
            log.warning("a stored key cannot be read", key=key_id, reason=str(error))
    return found


def _tenants(flat: Sequence[str]) -> dict[str, TenantLimits]:
    found = {}
    for tenant, text in zip(flat[::2], flat[1::2], strict=True):
        try:
            found[tenant] = TenantLimits.from_json(text)
        except ValueError as error:
            log.warning("a tenant's stored limits cannot be read", tenant=tenant, reason=str(error))
    return found
