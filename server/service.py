"""What the routes work with, made once for the process by app.py and handed to each as `Depends(service)`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Final

from fastapi import Depends, Request

from server.authority import Authority
from server.callers import Caller
from server.catalogue import Catalogue
from server.errors import invalid_request
from server.fair_places import FairPlaces
from server.faults import ApiError, Fault
from server.giving_up import GivingUp
from server.hub import Hub
from server.images import ImageStore
from server.metrics import Metrics
from server.present import Presenter
from server.queue import Queue, StoredJob
from server.readiness import Readiness
from server.settings import Settings
from server.stream import JobStream
from server.traces import OFF, Traces
from server.wording import Own, Wording

MOST_BY_LINKS: Final = 200  # streams of one job that one API process holds


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
    authority: Authority
    giving_up: GivingUp
    traces: Traces = OFF
    readiness: Readiness = field(default_factory=Readiness)
    # A picture takes up to 64 MB for a moment: two at once, whoever else waits.
    decoding: FairPlaces = field(default_factory=lambda: FairPlaces(2))
    parsing: FairPlaces = field(default_factory=lambda: FairPlaces(2))
    """Of large bodies."""

    async def job_of(self, tenant: str, job_id: str) -> StoredJob:
        """A job of the tenant's. Raises ApiError job_not_found, also where it is someone else's."""
        job = await self.queue.job(job_id) if is_id(job_id, "job_") else None
        if job is None or job.tenant != tenant:
            raise job_not_found(job_id)
        return job

    async def job_to_read(self, caller: Caller, job_id: str) -> StoredJob:
        """A job that the caller sees. Raises ApiError job_not_found."""
        if not caller.owns(caller.tenant, job_id):
            raise job_not_found(job_id)
        return await self.job_of(caller.tenant, job_id)

    async def open_stream(
        self, caller: Caller, job: StoredJob, after: int, wording: Wording | None = None
    ) -> JobStream:
        """The job's events after number `after`, for as long as the caller may see them, in our own words unless told.

        Raises QueueUnavailable, and ApiError rate_limited where too many follow the job by links: nobody knows who they
        are, and each holds a connection for as long as the job takes.
        """
        if caller.link is not None and self.hub.by_links(job.id) >= MOST_BY_LINKS:
            detail = f"{MOST_BY_LINKS} streams of {job.id} are open by links already; read GET /jobs/{job.id} meanwhile"
            raise ApiError("rate_limited", detail, headers={"Retry-After": "10"})
        words = Own(self.presenter.for_caller(caller), job) if wording is None else wording
        stream = JobStream(self.queue, self.hub, words, self.metrics, job, after)
        stream.follower.caller = caller
        await stream.open()
        return stream


def service(request: Request) -> Service:
    """The process's parts, for a route."""
    parts: Service = request.app.state.service
    return parts


Parts = Annotated[Service, Depends(service)]


def job_not_found(job_id: str) -> ApiError:
    """404, the same whatever the reason is."""
    return ApiError("job_not_found", f"there is no job {job_id[:100]!r}; it may have been deleted, or have expired")


def refuse_token(request: Request) -> None:
    """For routes that write: a read-only link gives no right to, nor does it seem to. Raises ApiError."""
    if "token" in request.query_params:
        raise invalid_request([Fault("/token", "is a read-only link's, which can only be used with GET; remove it")])


def is_id(text: str, prefix: str) -> bool:
    """Whether a text can be the id of a job (`job_`) or an image (`img_`): prefix and 32 hex digits."""
    digits = text.removeprefix(prefix)
    return text.startswith(prefix) and len(digits) == 32 and all(c in "0123456789abcdef" for c in digits)
