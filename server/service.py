"""What the routes work with, made once for the process by app.py and handed to each as `Depends(service)`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from server.catalogue import Catalogue
from server.errors import ApiError
from server.hub import Hub
from server.images import ImageStore
from server.metrics import Metrics
from server.present import Presenter
from server.queue import Queue, StoredJob
from server.settings import Settings
from server.stream import JobStream

TENANT = "local"  # everyone's, while there are no keys


@dataclass(frozen=True)
class Service:
    """The parts of the API process."""

    settings: Settings
    queue: Queue
    images: ImageStore
    hub: Hub
    metrics: Metrics
    catalogue: Catalogue
    presenter: Presenter
    # A decoded picture takes up to 200 MB for a moment.
    decoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))

    async def job_of(self, tenant: str, job_id: str) -> StoredJob:
        """A job of the tenant's. Raises ApiError job_not_found, also where it is someone else's."""
        job = await self.queue.job(job_id) if is_id(job_id, "job_") else None
        if job is None or job.tenant != tenant:
            raise ApiError(
                "job_not_found", f"there is no job {job_id[:100]!r}; it may have been deleted, or have expired"
            )
        return job

    async def open_stream(self, job: StoredJob, after: int) -> JobStream:
        """The job's events after number `after`. Raises QueueUnavailable."""
        stream = JobStream(self.queue, self.hub, self.presenter, self.metrics, job, after)
        await stream.open()
        return stream


def service(request: Request) -> Service:
    """The process's parts, for a route."""
    parts: Service = request.app.state.service
    return parts


Parts = Annotated[Service, Depends(service)]


def is_id(text: str, prefix: str) -> bool:
    """Whether a text can be the id of a job (`job_`) or an image (`img_`): prefix and 32 hex digits."""
    digits = text.removeprefix(prefix)
    return text.startswith(prefix) and len(digits) == 32 and all(c in "0123456789abcdef" for c in digits)
