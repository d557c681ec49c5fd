"""Lists of jobs in Redis, newest first, a page at a time. Keys are described in `server/queue.py`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from server.queue_link import Link
from server.queue_records import ROOT, StoredJob

LIST_CHUNK: Final = 100
_CURSOR: Final = re.compile(r"[0-9]{1,17}")  # as Redis reads numbers: no other digits, and none too large for it


class _Entry(NamedTuple):
    """A job in the index at `key`; `made_us` is when it was made."""

    key: str
    id: str
    made_us: float


class Listing:
    """Reads indexes, and strikes from them what is gone."""

    def __init__(self, link: Link) -> None:
        self._redis, self._do = link.redis, link.do

    async def page(
        self, tenants: Iterable[str], status: str | None, limit: int, cursor: str | None
    ) -> tuple[list[StoredJob], str | None]:
        """These tenants' jobs, and where the next page begins. Raises ValueError for a cursor not of ours."""
        indexes, before = [f"{ROOT}jobs:{tenant}" for tenant in tenants], _cursor(cursor)
        found: list[tuple[StoredJob, str]] = []
        while True:
            entries = await self._do(partial(self._entries, indexes, before))
            jobs = await self._do(partial(self._read, entries, status))
            found += [(jobs[entry.id], f"{entry.made_us:.0f}") for entry in entries if entry.id in jobs]
            if len(found) > limit:
                return [job for job, _ in found[:limit]], found[limit - 1][1]
            if len(entries) < LIST_CHUNK:
                return [job for job, _ in found], None
            before = f"({entries[-1].made_us:.0f}"

    async def poisoned(self, limit: int, cursor: str | None) -> tuple[list[StoredJob], str | None]:
        """Jobs that were given up, the last one first; the cursor counts those that are still there."""
        first = 0 if cursor is None else int(_cursor(cursor)[1:])
        index = f"{ROOT}dead"
        rows = await self._do(lambda: self._redis.zrevrange(index, first, first + limit))
        jobs = await self._do(partial(self._read, [_Entry(index, job_id, 0.0) for job_id in rows[:limit]], None))
        found = [jobs[job_id] for job_id in rows[:limit] if job_id in jobs]
        return found, str(first + len(found)) if len(rows) > limit else None  # who is gone is no longer in the index

    async def _entries(self, indexes: Sequence[str], before: str) -> list[_Entry]:
        """The newest of all indexes that are older than `before`."""

        def ask(pipe: Any, index: str) -> None:
            pipe.zrevrangebyscore(index, before, "-inf", start=0, num=LIST_CHUNK, withscores=True)

        pages = await self._each(indexes, ask)
        entries = [
            _Entry(index, job_id, made_us)
            for index, page in zip(indexes, pages, strict=True)
            for job_id, made_us in page
        ]
        return sorted(entries, key=lambda entry: entry.made_us, reverse=True)[:LIST_CHUNK]

    async def _read(self, entries: Sequence[_Entry], status: str | None) -> dict[str, StoredJob]:
        """The jobs of those entries that have that status; who is gone is struck from its index."""
        statuses = await self._each([e.id for e in entries], lambda pipe, job_id: pipe.hget(_key(job_id), "status"))
        now = list(zip(entries, statuses, strict=True))
        if gone := [entry for entry, seen in now if seen is None]:
            await self._each(gone, lambda pipe, entry: pipe.zrem(entry.key, entry.id))
        wanted = [entry.id for entry, seen in now if seen is not None and status in (None, seen)]
        hashes = await self._each(wanted, lambda pipe, job_id: pipe.hgetall(_key(job_id)))
        return {i: StoredJob.from_hash(i, stored) for i, stored in zip(wanted, hashes, strict=True) if stored}

    async def _each(self, what: Sequence[Any], ask: Callable[[Any, Any], object]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for one in what:
                ask(pipe, one)
            return await pipe.execute() if what else []


def _key(job_id: str) -> str:
    return f"{ROOT}job:{job_id}"


def _cursor(text: str | None) -> str:
    if text is None:
        return "+inf"
    if not _CURSOR.fullmatch(text):
        raise ValueError(f"{text[:50]!r} is not one of ours; begin without a cursor, then pass next_cursor back")
    return f"({text}"
