"""What is kept and for how long, minded by the API processes.

    every second     queue.sweep: deadlines of waiting jobs, expired leases
    every hour       pictures whose job is gone, and previews whose events are gone; the first time soon after the start
    every 5 minutes  where jobs have no lifetime (`r3 serve`): the oldest finished jobs, once R3_KEEP_GB are full

The last two are done by whichever process gets the lock; all of them can be done twice without harm.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

import structlog
from redis.exceptions import RedisError

from server.given_pictures import given_pictures
from server.images import ImageStore, StoredFolder
from server.queue import Queue, QueueError, StoredJob
from server.settings import Settings

log = structlog.get_logger("r3.api")

ORPHANS_EVERY_S: Final = 3600.0
KEEP_EVERY_S: Final = 300.0
SOON_S: Final = 60.0  # after the start, for a server may never run for an hour
# A picture is stored before its job is submitted, and a job's last picture before the job is; both are given this long.
GRACE_S: Final = 3600.0
CHUNK: Final = 1000  # stored jobs that are looked at together: there may be millions
AT_ONCE: Final = 16
KEEP_JOBS: Final = 50_000  # with pictures, of some 10 kB each in Redis, where they have no lifetime
_TO_MEND: Final = (
    "is R3_REDIS_URL right, and has no other installation this R3_IMAGE_STORE? If Redis lost its data for good, delete "
    "the store's object @queue: pictures whose job it does not know are then removed"
)
_GB: Final = 10**9
T = TypeVar("T")


class Retention:
    """Erases what need not be kept."""

    def __init__(self, queue: Queue, images: ImageStore, settings: Settings) -> None:
        self._queue = queue
        self._images = images
        self._settings = settings

    async def run(self) -> None:
        """Mind everything, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._every(1.0, self._sweep_queue))
            tasks.create_task(
                self._every(ORPHANS_EVERY_S, self._locked("orphans", ORPHANS_EVERY_S, self.sweep_orphans))
            )
            if self._settings.job_ttl_s is None:
                tasks.create_task(self._every(KEEP_EVERY_S, self._locked("keep", KEEP_EVERY_S, self.keep_within_bound)))

    async def sweep_orphans(self) -> int:
        """Remove pictures whose job is gone, and previews that outlived their events; returns how many jobs' were."""
        removed, now = 0, time.time()
        if (mark := await self._common_mark()) is None:
            log.warning("no picture is swept: the image store is not marked as this queue's", remedy=_TO_MEND)
            return 0
        async for folders in self._folders():
            old = [folder for folder in folders if now - folder.newest_s >= GRACE_S]
            finished = await self._queue.finished([folder.job for folder in old])
            if await self._queue.mark() != mark:  # asked after the jobs: what was said of them holds
                log.warning("the sweep ends: Redis has lost its data since it began", remedy=_TO_MEND)
                break
            removed += await self._remove([folder for folder in old if folder.job not in finished])
            await self._tidy([(folder, ended) for folder in old if (ended := finished.get(folder.job))], now)
        if removed:
            log.info("pictures without a job removed", jobs=removed)
        return removed

    async def _remove(self, orphans: Sequence[StoredFolder]) -> int:
        """How many of them have gone: several at once, for each takes a store some time."""
        gone = 0
        for some in batched(orphans, AT_ONCE):
            done = await asyncio.gather(
                *(self._tried(self._images.delete_job, one, one.tenant, one.job) for one in some)
            )
            gone += sum(done)
        return gone

    async def _tidy(self, ended: Sequence[tuple[StoredFolder, int]], now: float) -> None:
        """What is left of finished jobs: previews without events, and lifetimes that are no longer as they were."""
        ttl_s = self._settings.job_ttl_s
        for folder, finished_ms in ended:
            if now - finished_ms / 1000 < self._settings.event_ttl_s:
                continue
            job = await self._queue.job(folder.job)
            if job is not None and folder.objects > len(hashes := _hashes(job)):
                await self._tried(self._images.keep_only, folder, folder.tenant, folder.job, hashes)
        if ttl_s is not None and (late := [f.job for f, ended_ms in ended if now - ended_ms / 1000 > ttl_s]):
            await self._queue.shorten(late)  # they ended while jobs were to be kept for longer

    async def _tried(self, work: Callable[..., Any], folder: StoredFolder, *args: Any) -> bool:
        """Whether it was done: of one folder that fails the others would wait for ever."""
        try:
            return await asyncio.to_thread(work, *args) is not False
        except OSError as error:
            log.warning("a folder of pictures could not be swept", folder=folder.job, reason=str(error))
            return False

    async def keep_within_bound(self) -> int:
        """Delete the oldest finished jobs until the pictures take at most R3_KEEP_GB, and the jobs no more of Redis's
        memory than they should; returns how many were.
        """
        folders = [folder async for some in self._folders() for folder in some]
        if self._excess(folders) > 0 or len(folders) > KEEP_JOBS:
            # Pictures without a job, swept or not, cost none of those that are known.
            looked_at = [(some, await self._queue.finished([f.job for f in some])) for some in batched(folders, CHUNK)]
            folders = [folder for some, known in looked_at for folder in some if folder.job in known]
        excess, deleted = self._excess(folders), 0
        for folder in sorted(folders, key=lambda folder: folder.newest_s):
            if excess <= 0 and len(folders) - deleted <= KEEP_JOBS:
                break
            if await self._queue.delete(folder.job) == "deleted":
                deleted += 1
                if not await asyncio.to_thread(self._images.delete_job, folder.tenant, folder.job):
                    log.warning("no more jobs are deleted: their pictures do not go", keep_gb=self._settings.keep_gb)
                    break
                excess -= folder.size_bytes
        if deleted:
            log.info("oldest jobs deleted to stay within R3_KEEP_GB", jobs=deleted, keep_gb=self._settings.keep_gb)
        return deleted

    def _excess(self, folders: Sequence[StoredFolder]) -> float:
        return sum(folder.size_bytes for folder in folders) - self._settings.keep_gb * _GB

    async def _sweep_queue(self) -> None:
        await self._queue.sweep()

    async def _folders(self) -> AsyncIterator[list[StoredFolder]]:
        """What is stored, so many jobs at a time."""
        found = self._images.jobs()
        while some := await asyncio.to_thread(lambda: list(islice(found, CHUNK))):
            yield some

    async def _common_mark(self) -> str | None:
        """The mark of queue and store, where the pictures are those of this queue's jobs.

        To a Redis that has lost its data, or to another's, every picture is one without a job. A store without a mark
        gets one where it is empty or its jobs are known.
        """
        own, found = await self._queue.mark(), await asyncio.to_thread(self._images.mark)
        if found is None and await self._is_ours_or_empty():
            own = await self._queue.keep_mark(own or secrets.token_hex(16))
            await asyncio.to_thread(self._images.put_mark, own)
            found = await asyncio.to_thread(self._images.mark)  # another queue may have been first
        return own if own == found else None

    async def _is_ours_or_empty(self) -> bool:
        is_empty = True
        async for folders in self._folders():
            is_empty = False
            if await self._queue.finished([folder.job for folder in folders]):
                return True
        return is_empty

    def _locked(self, name: str, ttl_s: float, work: Callable[[], Awaitable[int]]) -> Callable[[], Awaitable[None]]:
        """`work` where no other process has done it of late."""

        async def once() -> None:
            if await self._queue.take_turn(name, ttl_s * 0.9):
                await work()

        return once

    async def _every(self, period_s: float, work: Callable[[], Awaitable[None]]) -> None:
        """`work` soon and then again and again; where the queue or the store fails, the next time is soon enough."""
        soon_s = SOON_S
        while True:
            await asyncio.sleep(min(period_s, soon_s))
            soon_s = period_s
            try:
                await work()
            except (QueueError, RedisError) as error:
                log.debug("upkeep was put off: Redis is away", reason=str(error))
            except OSError as error:  # seldom asked, and nobody else would tell that the store fills up
                log.warning("upkeep was put off: the image store failed", reason=str(error))


def _hashes(job: StoredJob) -> set[str]:
    records = [*job.images.values(), *given_pictures(job.request).values()]
    return {record[name] for record in records if record for name in ("sha256", "master_sha256") if name in record}


def batched(all_of: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Of itertools from Python 3.12 on."""
    return (all_of[first : first + size] for first in range(0, len(all_of), size))
