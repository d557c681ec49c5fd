"""The queue as an operator sees it: jobs of every tenant, those that were given up, and pausing."""

from __future__ import annotations

from typing import Final, Literal, cast

from server.queue_link import Link
from server.queue_listing import Listing
from server.queue_records import ROOT, StoredJob

MAY_LIVE_S: Final = 600  # a worker that was silent for less may only have been stopped for a while
Forgotten = Literal["forgotten", "unknown", "used", "served"]


class QueueAdmin:
    """What no tenant may do. Every method may raise QueueUnavailable."""

    def __init__(self, link: Link) -> None:
        self._redis, self._do, self._run = link.redis, link.do, link.run
        self._listing = Listing(link)

    async def jobs(
        self, tenant: str | None, status: str | None = None, limit: int = 20, cursor: str | None = None
    ) -> tuple[list[StoredJob], str | None]:
        """Everyone's jobs or one tenant's, newest first, and where the next page begins.

        Raises ValueError for a cursor not of ours.
        """
        tenants = [tenant] if tenant is not None else await self._do(lambda: self._redis.zrange(f"{ROOT}seen", 0, -1))
        return await self._listing.page(tenants, status, limit, cursor)

    async def poisoned(self, limit: int = 20, cursor: str | None = None) -> tuple[list[StoredJob], str | None]:
        """Everyone's jobs that were given up in the last 7 days and are still known, the last one first.

        Raises ValueError for a cursor not of ours.
        """
        return await self._listing.poisoned(limit, cursor)

    async def pause(self, model: str | None) -> None:
        """Leases nothing more of a model, or of any; what runs goes on, and jobs are taken as before."""
        await self._run("pause", model or "")

    async def resume(self, model: str | None) -> bool:
        """Leases again: of one model, or of all whatever was paused. Whether anything was."""
        return bool(await self._run("resume", model or ""))

    async def forget(self, model: str) -> Forgotten:
        """Knows a model no longer: one that no worker serves, and of which nothing waits or runs."""
        return cast(Forgotten, await self._run("forget", model, MAY_LIVE_S * 1000))
