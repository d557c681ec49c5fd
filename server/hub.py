"""One subscription of this process to the live feed, fanned out to everyone here who follows a job.

A follower has a bounded buffer. Where a slow client lets it fill up, progress and previews go first; when only
numbered events are left to drop, the follower is closed instead, and the client resumes by number. Numbered events
are never dropped and passed over in silence: who gets number 7 after number 5 reads the log (stream.py).

Once a second `tick` sends heartbeats, looks for clients that have stopped reading, and tells waiting jobs'
followers where their job stands.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from server.faults import ApiError
from server.metrics import Metrics
from server.queue import Event, Live, Queue, QueueError
from server.queue_records import TERMINAL_EVENTS, rfc3339
from server.sse import frame

if TYPE_CHECKING:
    from server.callers import Caller

log = structlog.get_logger("r3.api")

TICK_S: Final = 1.0
UNAUTHORIZED: Final = "unauthorized"
KEYS_UNAVAILABLE: Final = "keys_unavailable"
STUCK_S: Final = 20.0  # a client that takes nothing for this long is cut off
CUT_EVERY_S: Final = 0.01


@dataclass(frozen=True)
class Message:
    """An event on its way to followers; its frame is made once for all of them."""

    number: int | None
    event: Event
    frame: bytes

    @property
    def is_terminal(self) -> bool:
        """Whether it is the job's last."""
        return self.event.name in TERMINAL_EVENTS


@dataclass(eq=False)
class Follower:
    """One who follows a job. `closing` says why it is to end; `must_reread` that the log knows more than the buffer.

    `caller` is who asked for it, and may be shut out while it lasts.
    """

    job_id: str
    model: str
    limit: int
    buffer: deque[Message] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    must_reread: bool = False
    closing: str | None = None
    has_hung_up: bool = False
    beat_due: bool = False
    position: int | None = None
    """The place in the queue that was last told; None where the job does not wait."""
    last_sent_at: float = field(default_factory=time.monotonic)
    sending_since: float | None = None
    abort: Callable[[], None] | None = None
    caller: Caller | None = None

    def hang_up(self) -> None:
        """The client is gone."""
        self.has_hung_up = True
        self.wake.set()

    def close(self, reason: str) -> None:
        """End this follower with `stream.closing`, unless it is ending already."""
        self.closing = self.closing or reason
        self.wake.set()

    def shut_out(self, reason: str) -> None:
        """End it because its caller may follow no longer, at once where a slow client holds up the end."""
        self.close(reason)
        if self.sending_since is not None and self.abort is not None:
            self.abort()

    def reread(self) -> None:
        """Have it read the log again."""
        self.must_reread = True
        self.wake.set()

    def must_look(self) -> bool:
        """Whether something other than a message has come: the log is to be read again, or this is the end."""
        must, self.must_reread = self.must_reread or self.closing is not None or self.has_hung_up, False
        return must

    def take(self) -> list[Message]:
        """All that has come since the last time."""
        self.wake.clear()
        taken = list(self.buffer)
        self.buffer.clear()
        return taken

    def put(self, message: Message) -> int:
        """Add a message; returns how many live ones had to go for it."""
        dropped = 0
        if len(self.buffer) >= self.limit:
            kept = [m for m in self.buffer if m.number is not None]
            dropped = len(self.buffer) - len(kept)
            if len(kept) >= self.limit and message.number is None:
                return 1  # the message itself
            if len(kept) >= self.limit:
                self.buffer.clear()
                self.close("slow_client")
                return dropped
            self.buffer = deque(kept)
        self.buffer.append(message)
        self.wake.set()
        return dropped


class Hub:
    """All followers of this process."""

    def __init__(self, queue: Queue, metrics: Metrics, *, buffer_events: int, heartbeat_s: float) -> None:
        self._queue = queue
        self._metrics = metrics
        self._buffer_events = buffer_events
        self._heartbeat_s = heartbeat_s
        self._followers: dict[str, set[Follower]] = {}
        self._closing: str | None = None

    @contextmanager
    def follow(self, job_id: str, model: str) -> Iterator[Follower]:
        """Follow a job for as long as the block lasts."""
        follower = self.enter(job_id, model)
        try:
            yield follower
        finally:
            self.leave(follower)

    def enter(self, job_id: str, model: str) -> Follower:
        """Follow a job until `leave`."""
        follower = Follower(job_id, model, self._buffer_events)
        if self._closing is not None:
            follower.close(self._closing)
        self._followers.setdefault(job_id, set()).add(follower)
        return follower

    def by_links(self, job_id: str) -> int:
        """How many follow a job who came by a link."""
        callers = (follower.caller for follower in self._followers.get(job_id, ()))
        return sum(caller is not None and caller.link is not None for caller in callers)

    def leave(self, follower: Follower) -> None:
        """Follow it no longer."""
        others = self._followers.get(follower.job_id, set())
        others.discard(follower)
        if not others:
            self._followers.pop(follower.job_id, None)

    def close(self, reason: str) -> None:
        """Close every follower, and every one that comes from now on."""
        self._closing = reason
        for follower in self._all():
            follower.close(reason)

    async def run(self) -> None:
        """Read the live feed, for ever."""
        async for live in self._queue.follow():
            self._dispatch(live)

    async def tick_for_ever(self) -> None:
        """`tick`, once a second."""
        while True:
            await asyncio.sleep(TICK_S)
            self.tick(time.monotonic())
            with suppress(QueueError):
                await self.tell_positions()

    def tick(self, now: float) -> None:
        """Heartbeats for the silent, an end for the stuck. `now` is `time.monotonic()`."""
        stuck = 0
        for follower in self._all():
            if follower.sending_since is not None:
                if now - follower.sending_since > STUCK_S and follower.abort is not None:
                    # One after another: many ends at once would hold up those who read.
                    asyncio.get_running_loop().call_later(stuck * CUT_EVERY_S, follower.abort)
                    follower.abort = None
                    self._metrics.streams_closed.labels("stuck_client").inc()
                    follower.close("stuck_client")
                    stuck += 1
            elif now - follower.last_sent_at >= self._heartbeat_s:
                follower.beat_due = True
                follower.wake.set()

    async def close_refused(self, refused: Callable[[Iterable[Caller]], Awaitable[set[Caller]]]) -> None:
        """Once a second, for ever, shut out callers who would not be let in any more: those that `refused` says.

        While the queue is away they stay, for nothing comes over the live feed then. Where it is there and yet nobody
        can say who may follow, nobody may.
        """
        while True:
            await asyncio.sleep(TICK_S)
            callers = {follower.caller for follower in self._all() if follower.caller is not None}
            with suppress(QueueError):
                reason = UNAUTHORIZED
                try:
                    gone = await refused(callers) if callers else set()
                except ApiError:
                    gone, reason = callers, KEYS_UNAVAILABLE
                for follower in self._all():
                    if follower.caller in gone:
                        follower.shut_out(reason)

    async def tell_positions(self) -> None:
        """A live `job.queued` to followers of waiting jobs whose place has changed. Raises QueueUnavailable."""
        waiting = {(f.model, f.job_id) for f in self._all() if f.position is not None}
        for job_id, (place, eta_s) in (await self._queue.positions(sorted(waiting))).items():
            data = {"job_id": job_id, "trajectory": None, "at": rfc3339(time.time() * 1000)}
            event = Event("job.queued", {**data, "position": place, "eta_s": eta_s})
            message = Message(None, event, frame(event))
            for follower in list(self._followers.get(job_id, ())):
                if place is not None and follower.position not in (None, place):
                    follower.position = place
                    follower.put(message)

    def _dispatch(self, live: Live) -> None:
        if live.resync:
            for follower in self._all():
                follower.reread()
            return
        followers = self._followers.get(live.job_id)
        if not followers or live.event is None:
            return
        message = Message(live.number, live.event, frame(live.event, live.number))
        for follower in followers:
            if dropped := follower.put(message):
                self._metrics.events_dropped.inc(dropped)

    def _all(self) -> list[Follower]:
        return [follower for followers in self._followers.values() for follower in followers]
