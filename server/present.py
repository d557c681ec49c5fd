"""Jobs and events as answers hold them: the finished job in `job.succeeded`, pictures' bytes where the request asked
for them, and, where keys are asked for, links that a browser can follow without one.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any, Final

from server.authority import Authority
from server.callers import LOCAL, Caller
from server.images import ImageMissing, ImageStore
from server.job_view import image_ids, job_json, with_bytes, with_token
from server.queue import Event, Queue, StoredJob

Json = dict[str, Any]
_PICTURED: Final = frozenset({"image", "image.preview", "trajectory.done"})


class Presenter:
    """Adds to what is stored what only the answer to this caller holds. Reads pictures in a thread."""

    def __init__(self, queue: Queue, images: ImageStore, authority: Authority, caller: Caller = LOCAL) -> None:
        self._queue = queue
        self._images = images
        self._authority = authority
        self._caller = caller

    def for_caller(self, caller: Caller) -> Presenter:
        """One whose answers go to that caller."""
        return Presenter(self._queue, self._images, self._authority, caller)

    async def ready(self) -> None:
        """Know what signs links. A request was let in by it; what no request asks for must see to it itself.

        Raises QueueUnavailable, and ApiError where keys cannot be read.
        """
        await self._authority.ring()

    async def job(self, job: StoredJob) -> Json:
        """The job as GET /jobs/{id} gives it. Raises QueueUnavailable."""
        position = await self._queue.position(job) if job.status == "queued" else (None, None)
        return await self._with_bytes(job, self.linked(job, job_json(job, position)))

    def job_at_hand(self, job: StoredJob) -> Json:
        """The same without its place in the queue and without bytes: nothing more is asked of Redis."""
        return self.linked(job, job_json(job))

    async def picture(self, job: StoredJob, image: Json) -> Json:
        """An image of the job's, with its bytes where the request asked for them. Raises QueueUnavailable."""
        return await self._with_bytes(job, self.linked(job, image))

    def linked(self, job: StoredJob, shown: Json) -> Json:
        """The same, of a job or an event of it, with a token in those of its links that can be read by one."""
        token = self._authority.link_token(self._caller, job.tenant, job.id)
        return shown if token is None else with_token(shown, token)

    def adds_to(self, job: StoredJob, event: Event) -> bool:
        """Whether `event` would come out other than it is stored."""
        if event.name == "job.succeeded" or _wants_bytes(job):
            return True
        return event.name in _PICTURED and self._authority.link_token(self._caller, job.tenant, job.id) is not None

    async def event(self, job: StoredJob, event: Event) -> Event:
        """The event with what its answer holds. Raises QueueUnavailable."""
        if event.name == "job.succeeded":
            finished = await self._queue.job(job.id)
            return Event(event.name, {**event.data, "job": await self.job(finished or job)})
        return Event(event.name, await self._with_bytes(job, self.linked(job, event.data)))

    async def _with_bytes(self, job: StoredJob, shown: Json) -> Json:
        """The same with pictures' bytes where they were asked for."""
        if not _wants_bytes(job):
            return shown
        texts: dict[str, str] = {}
        for image_id in image_ids(shown):
            record = job.images.get(image_id) or await self._queue.image(image_id)
            if record is not None and (record["tenant"], record["job"]) == (job.tenant, job.id):
                text = await asyncio.to_thread(self._base64, record)
                if text is not None:
                    texts[image_id] = text
        filled: Json = with_bytes(shown, texts)
        return filled

    def _base64(self, record: Json) -> str | None:
        try:
            content = self._images.get(record["tenant"], record["job"], record["sha256"])
        except ImageMissing:
            return None
        return base64.b64encode(content).decode("ascii")


def _wants_bytes(job: StoredJob) -> bool:
    return bool(job.params.get("response_format") == "b64_json")
