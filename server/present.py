"""Jobs and events as answers hold them: the finished job in `job.succeeded`, pictures' bytes where the request asked
for them.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from server.images import ImageMissing, ImageStore
from server.job_view import image_ids, job_json, with_bytes, with_token
from server.queue import Event, Queue, StoredJob

Json = dict[str, Any]


class Presenter:
    """Adds to what is stored what only the answer holds. Reads pictures in a thread."""

    def __init__(self, queue: Queue, images: ImageStore, token: str | None = None) -> None:
        self._queue = queue
        self._images = images
        self._token = token

    def for_link(self, token: str | None) -> Presenter:
        """One whose answers go to who came by a read-only link: the links in them carry its token on."""
        return self if token is None else Presenter(self._queue, self._images, token)

    async def job(self, job: StoredJob) -> Json:
        """The job as GET /jobs/{id} gives it. Raises QueueUnavailable."""
        position = await self._queue.position(job) if job.status == "queued" else (None, None)
        shown = job_json(job, position)
        if self._token is not None:
            for name in ("self", "events"):
                shown["links"][name] += f"?token={self._token}"
        return await self._filled(job, shown)

    def adds_to(self, job: StoredJob, event: Event) -> bool:
        """Whether `event` would come out other than it is stored."""
        return event.name == "job.succeeded" or _wants_bytes(job) or self._token is not None

    async def event(self, job: StoredJob, event: Event) -> Event:
        """The event with what its answer holds. Raises QueueUnavailable."""
        if event.name == "job.succeeded":
            finished = await self._queue.job(job.id)
            return Event(event.name, {**event.data, "job": await self.job(finished or job)})
        return Event(event.name, await self._filled(job, event.data))

    async def _filled(self, job: StoredJob, shown: Json) -> Json:
        """The same with pictures' bytes where they were asked for, and with the token in their links."""
        linked: Json = shown if self._token is None else with_token(shown, self._token)
        return await self._with_bytes(job, linked) if _wants_bytes(job) else linked

    async def _with_bytes(self, job: StoredJob, shown: Json) -> Json:
        texts: dict[str, str] = {}
        for image_id in image_ids(shown):
            record = job.images.get(image_id) or await self._queue.image(image_id)
            if record is not None:
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
