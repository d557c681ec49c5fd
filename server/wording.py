"""How a job's events are told to one client: in our own words (`Own`), or in another API's (openai_stream.py)."""

from __future__ import annotations

import time
from typing import Any, Protocol

from server.hub import Message
from server.present import Presenter
from server.queue import Event, LoggedEvent, StoredJob
from server.queue_records import rfc3339
from server.sse import RETRY_MS, frame, with_retry


class Wording(Protocol):
    """What stream.py asks for the bytes of what it has to tell; they may be none. Each may raise QueueUnavailable."""

    async def logged(self, event: LoggedEvent, message: Message | None) -> bytes:
        """A numbered event; `message` is the same where it came over the live feed."""
        ...

    async def live(self, message: Message) -> bytes:
        """An event without a number."""
        ...

    async def reset(self, job: StoredJob, covered: int) -> bytes:
        """The job as it stands, in place of all events up to number `covered`."""
        ...

    def closing(self, reason: str) -> bytes:
        """That we end the stream, and not the job."""
        ...


class Own:
    """Our own events (event_views.py): each as it is stored, with its number as `id:`."""

    def __init__(self, presenter: Presenter, job: StoredJob) -> None:
        self._presenter = presenter
        self._job = job
        self._is_first = True

    async def logged(self, event: LoggedEvent, message: Message | None) -> bytes:
        """The event under its number."""
        if message is not None:
            return await self.live(message)
        shown = await self._presenter.event(self._job, Event(event.name, event.data))
        return self._first(frame(shown, event.number))

    async def live(self, message: Message) -> bytes:
        """The frame made for all followers, unless this job's clients get more than it holds."""
        if not self._presenter.adds_to(self._job, message.event):
            return self._first(message.frame)
        return self._first(frame(await self._presenter.event(self._job, message.event), message.number))

    async def reset(self, job: StoredJob, covered: int) -> bytes:
        """`stream.reset`, under the number of the last event that it covers."""
        return self._first(
            frame(Event("stream.reset", {**self._common(), "job": await self._presenter.job(job)}), covered)
        )

    def closing(self, reason: str) -> bytes:
        """`stream.closing`, and when to come back."""
        return self._first(frame(Event("stream.closing", {**self._common(), "reason": reason, "retry_ms": RETRY_MS})))

    def _common(self) -> dict[str, Any]:
        return {"job_id": self._job.id, "trajectory": None, "at": rfc3339(time.time() * 1000)}

    def _first(self, frame_: bytes) -> bytes:
        """With the time after which a browser is to come back, in the stream's first event alone."""
        if not self._is_first:
            return frame_
        self._is_first = False
        return with_retry(frame_)
