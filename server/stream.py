"""A job's events as one client gets them: replayed from the log, then followed live, with no gap and no repeat.

    enter the hub      from here on nothing is missed
    read the log       until there is no more of it
    follow             number after number; where one is missing, or the feed was away, read the log again

Numbers decide: what is not above the last number sent is skipped, what is more than one above it means the log
knows more. Live events (progress, previews, queue positions) have no number; those that belong to a picture already
sent are left out. Where the log was trimmed, or is gone, the job as it stands takes its place (`stream.reset`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

from server.hub import Follower, Hub, Message
from server.image_errors import StoreFailed
from server.job_view import terminal_event
from server.metrics import Metrics
from server.queue import Event, LoggedEvent, Queue, QueueUnavailable, StoredJob
from server.queue_records import TERMINAL_EVENTS
from server.sse import HEARTBEAT
from server.wording import Wording

PAGE: Final = 20  # events read at once; reading them must not keep the other streams waiting
_TRY_AGAIN_S: Final = 1.0
_CHUNK_BYTES: Final = 64 * 1024
_LIVE_OF_A_PICTURE: Final = frozenset({"image.progress", "image.preview"})


class JobStream:
    """The events of one job for one client, after number `after`. Made by `open_stream`."""

    def __init__(self, queue: Queue, hub: Hub, wording: Wording, metrics: Metrics, job: StoredJob, after: int) -> None:
        self._queue = queue
        self._hub = hub
        self._wording = wording
        self._metrics = metrics
        self._job = job
        self._last = after
        self._page: list[LoggedEvent] = []
        self._pictures: dict[Any, int] = {}
        self._is_over = False
        self._is_behind = False
        """Whether the log had more than was sent of it."""
        self.follower: Follower = hub.enter(job.id, job.model)
        if job.status == "queued":
            self.follower.position = 0  # told within a second, unless the log says it first

    async def open(self) -> None:
        """Read the first page, so that a queue that is away is an error and not a broken stream."""
        try:
            self._page = await self._queue.events(self._job.id, self._last, PAGE)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Follow the job no longer."""
        self._hub.leave(self.follower)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Frames and heartbeats until the terminal event, until we close the stream, or until the client is gone."""
        try:
            async for chunk in self._from_the_log():
                yield chunk
            async for chunk in self._followed():
                yield chunk
        except QueueUnavailable:
            yield self._closing("queue_unavailable")
        except StoreFailed:  # of the pictures that belong into the events
            yield self._closing("storage_unavailable")

    async def _from_the_log(self) -> AsyncIterator[bytes]:
        page = self._page
        if not page:
            if self._last == self._job.last_event:
                yield HEARTBEAT  # nothing to say yet, but the first byte leaves at once
            else:  # the log is gone, or the number is of another life of the queue
                async for chunk in self._reset():
                    yield chunk
            return
        while page and not (self._is_over or self._is_left):
            async for chunk in self._replayed(page):
                yield chunk
            page = await self._queue.events(self._job.id, self._last, PAGE) if self._is_behind else []

    async def _followed(self) -> AsyncIterator[bytes]:
        follower = self.follower
        while not (self._is_over or follower.has_hung_up):
            await follower.wake.wait()
            async for chunk in self._news(follower.take()):
                yield chunk
            if follower.closing is not None and not self._is_over:
                yield self._closing(follower.closing)
            if follower.beat_due and not self._is_over:
                follower.beat_due = False
                if time.monotonic() - follower.last_sent_at > 1.0:
                    yield HEARTBEAT

    async def _news(self, messages: list[Message]) -> AsyncIterator[bytes]:
        """What came over the live feed, and what the log has where the feed has a gap."""
        follower = self.follower
        reread, follower.must_reread = follower.must_reread, False
        for message in messages:
            if message.number is not None and message.number > self._last + 1:
                reread = True
                break
            if chunk := await self._passed_on(message):
                yield chunk
        while reread and not self._is_over and follower.closing is None:
            try:
                page = await self._queue.events(self._job.id, self._last, PAGE)
                is_gone = not page and await self._log_is_gone()
            except QueueUnavailable:
                asyncio.get_running_loop().call_later(_TRY_AGAIN_S, follower.reread)
                return
            async for chunk in self._reset() if is_gone else self._replayed(page):
                yield chunk
            reread = self._is_behind and not is_gone

    async def _log_is_gone(self) -> bool:
        """Whether the job has had events that its log, in which nothing is new, lacks. Raises QueueUnavailable."""
        job = await self._queue.job(self._job.id)
        if job is not None and job.last_event == self._last:
            return False
        return not await self._queue.events(self._job.id, self._last, 1)  # else it came between the two questions

    @property
    def _is_left(self) -> bool:
        """Whether nobody reads any more, or is to."""
        return self.follower.has_hung_up or self.follower.closing is not None

    async def _replayed(self, page: list[LoggedEvent]) -> AsyncIterator[bytes]:
        """One chunk of the page, which is emptied: who is stuck holds a chunk, and what is left is read again."""
        events = deque(page)
        page.clear()
        self._is_behind = len(events) == PAGE
        if events and events[0].number > self._last + 1:  # the log was trimmed
            async for chunk in self._reset():
                yield chunk
        joined = bytearray()
        while events and len(joined) <= _CHUNK_BYTES:
            event = events.popleft()
            if event.number > self._last:
                joined += await self._logged(event)
        self._is_behind = self._is_behind or bool(events)
        events.clear()
        if joined:
            yield bytes(joined)

    async def _reset(self) -> AsyncIterator[bytes]:
        """The job as it stands, in place of the events that are gone."""
        job = await self._fresh_job()
        if job is None:
            return
        covered = job.last_event - 1 if job.is_finished else job.last_event
        yield await self._wording.reset(job, covered)
        self._last = covered
        if job.is_finished:
            name, data = terminal_event(job)
            yield await self._logged(LoggedEvent(job.last_event, name, data))

    async def _fresh_job(self) -> StoredJob | None:
        try:
            job = await self._queue.job(self._job.id)
        except QueueUnavailable:
            self.follower.close("queue_unavailable")
            return None
        if job is None:
            self.follower.close("job_deleted")
        return job

    async def _passed_on(self, message: Message) -> bytes:
        """A message of the hub as it is sent; empty where it is not."""
        if message.number is None:
            return b"" if self._is_stale(message.event) else await self._wording.live(message)
        if message.number <= self._last or self._is_over:
            return b""
        return await self._logged(LoggedEvent(message.number, *message.event), message)

    async def _logged(self, event: LoggedEvent, message: Message | None = None) -> bytes:
        """A numbered event as it is sent; from here on it is the last one."""
        self._last = event.number
        self._note(event)
        return await self._wording.logged(event, message)

    def _note(self, event: LoggedEvent) -> None:
        match event.name:
            case "job.queued":
                self.follower.position = event.data.get("position") or 0
            case "job.started":
                self.follower.position = None
            case "image":
                self._pictures[event.data["trajectory"]] = event.data["round"]
            case name if name in TERMINAL_EVENTS:
                self._is_over = True

    def _is_stale(self, event: Event) -> bool:
        """Whether a live event comes too late: its picture is finished, or the job no longer waits."""
        if event.name in _LIVE_OF_A_PICTURE:
            return bool(event.data["round"] <= self._pictures.get(event.data["trajectory"], -1))
        return event.name == "job.queued" and self.follower.position is None

    def _closing(self, reason: str) -> bytes:
        self._is_over = True
        self._metrics.streams_closed.labels(reason).inc()
        return self._wording.closing(reason)
