"""Webhooks in Redis: which are due, who holds them, and the secrets that they are signed with.

Written down by the script that ends the job; leased by any API process; struck off once delivered. See queue.py for the
keys.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from typing import Final, cast

from server.queue_link import Link

LEASE_S: Final = 60.0  # well above the longest attempt
ROTATION_GRACE_S: Final = 24 * 3600.0
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what all secrets begin with
_SECRET_BYTES: Final = 32


@dataclass(frozen=True)
class DueHook:
    """A webhook in the caller's hands for LEASE_S. `tenant` is None where its job is gone, and the webhook with it."""

    job_id: str
    tenant: str | None
    fence: str
    tries: int
    age_s: float
    """Since the job's end."""


class Outbox:
    """The webhooks of all jobs. Every method may raise QueueUnavailable."""

    def __init__(self, link: Link) -> None:
        self._run = link.run

    async def lease(self, most: int) -> list[DueHook]:
        """Takes up to `most` of those that are due."""
        answer = await self._run("hook_lease", secrets.token_hex(8), most, int(LEASE_S * 1000))
        rows = zip(*(answer[part::5] for part in range(5)), strict=True)
        return [
            DueHook(job_id, tenant or None, fence, int(tries), int(age_ms) / 1000)
            for job_id, tenant, fence, tries, age_ms in rows
        ]

    async def later(self, hook: DueHook, delay_s: float, *, tried: bool) -> None:
        """Gives one back, due again after `delay_s`; nothing happens where another has taken it since."""
        tries = hook.tries + 1 if tried else hook.tries
        await self._run("hook_later", hook.job_id, hook.fence, tries, int(delay_s * 1000))

    async def end(self, job_id: str) -> None:
        """Strikes one off, for ever."""
        await self._run("hook_end", job_id)

    async def signing_secrets(self, tenant: str) -> list[str]:
        """What to sign with, newest first; a tenant that has no secret gets one."""
        answer = await self._run("hook_secret", tenant, "sign", _new_secret(), "", 0)
        return [secret for secret in answer if secret]

    async def show_secret(self, tenant: str) -> str | None:
        """The tenant's secret, the first time it is asked for; None from then on."""
        answer = await self._run("hook_secret", tenant, "show", _new_secret(), secrets.token_hex(8), 0)
        return cast(str, answer[0]) if answer else None

    async def rotate_secret(self, tenant: str) -> str:
        """Makes another secret and returns it; the one before is signed with too for ROTATION_GRACE_S."""
        call, grace_ms = secrets.token_hex(8), int(ROTATION_GRACE_S * 1000)
        return cast(str, (await self._run("hook_secret", tenant, "rotate", _new_secret(), call, grace_ms))[0])


def _new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode("ascii")
