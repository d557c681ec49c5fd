"""Jobs: read, list, follow, cancel, stop, delete. Another tenant's job is as unknown as one that never was: 404."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response

from server.answers import EVENTS_RESPONSES, answer, problems
from server.callers import Caller, Maker, Reader
from server.errors import invalid_request, json_response
from server.faults import ApiError, Fault
from server.job_view import job_json
from server.queue import StoredJob
from server.routes import allow_head
from server.schemas import EventsQuery, JobQuery, JobsQuery
from server.service import Parts, Service, refuse_token
from server.sse import EventStreamResponse
from server.views import JobList, JobView

router = APIRouter(prefix="/jobs", tags=["jobs"])

_JOB = {**answer(200, JobView, "The job as it stands"), **problems(404, 422)}
_ACCEPTED = {**answer(202, JobView, "Accepted; the job as it stands"), **problems(404, 409, 422)}


@router.get(
    "", operation_id="listJobs", summary="List jobs", responses={**answer(200, JobList, "A page"), **problems(422)}
)
async def list_jobs(parts: Parts, caller: Reader, query: Annotated[JobsQuery, Query()]) -> Response:
    """The tenant's jobs, newest first. Pictures are linked, never sent as base64."""
    try:
        jobs, next_cursor = await parts.queue.jobs(caller.tenant, query.status, query.limit, query.cursor)
    except ValueError as error:
        raise invalid_request([Fault("/cursor", str(error))]) from error
    waiting = await parts.queue.positions([(job.model, job.id) for job in jobs if job.status == "queued"])
    presenter = parts.presenter.for_caller(caller)
    shown = [presenter.linked(job, job_json(job, waiting.get(job.id, (None, None)))) for job in jobs]
    return json_response({"jobs": shown, "next_cursor": next_cursor})


@router.get("/{job_id}", operation_id="getJob", summary="Read a job", responses=_JOB)
async def get_job(parts: Parts, caller: Reader, job_id: str, _query: Annotated[JobQuery, Query()]) -> Response:
    """The job with all that is finished of it."""
    job = await parts.job_to_read(caller, job_id)
    return json_response(await parts.presenter.for_caller(caller).job(job))


@router.get("/{job_id}/events", operation_id="followJob", summary="Follow a job", responses=EVENTS_RESPONSES)
async def follow_job(
    parts: Parts,
    caller: Reader,
    job_id: str,
    query: Annotated[EventsQuery, Query()],
    last_event_id: Annotated[
        str | None,
        Header(alias="Last-Event-ID", description="Resume just after this event; what EventSource sends by itself."),
    ] = None,
) -> Response:
    """The job's events from the first on, then live, until the terminal one.

    204 where a reconnect finds nothing left.
    """
    after = _resume_after(last_event_id, query.after)
    job = await parts.job_to_read(caller, job_id)
    if after is not None and job.is_finished and after >= job.last_event:
        return Response(status_code=204, headers={"Cache-Control": "no-store"})
    return EventStreamResponse(await parts.open_stream(caller, job, after or 0), parts.metrics, {})


@router.post(
    "/{job_id}/cancel",
    operation_id="cancelJob",
    summary="Cancel a job",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[Depends(refuse_token)],
)
async def cancel_job(parts: Parts, caller: Maker, job_id: str) -> Response:
    """Stop computing within one step; the job ends `cancelled`, and what is finished stays."""
    job = await parts.job_of(caller.tenant, job_id)
    outcome = await parts.queue.cancel(job.id)
    return await _accepted(parts, caller, job, outcome)


@router.post(
    "/{job_id}/stop",
    operation_id="stopJob",
    summary="Good enough",
    status_code=202,
    responses=_ACCEPTED,
    dependencies=[Depends(refuse_token)],
)
async def stop_job(parts: Parts, caller: Maker, job_id: str) -> Response:
    """End after the step in hand, with the newest finished picture of every trajectory."""
    job = await parts.job_of(caller.tenant, job_id)
    outcome = await parts.queue.stop(job.id)
    return await _accepted(parts, caller, job, outcome)


@router.delete(
    "/{job_id}",
    operation_id="deleteJob",
    summary="Delete a job",
    dependencies=[Depends(refuse_token)],
    status_code=204,
    responses={204: {"description": "Erased"}, **problems(404, 409, 422)},
)
async def delete_job(parts: Parts, caller: Maker, job_id: str) -> Response:
    """Erase a finished job with its events and pictures."""
    job = await parts.job_of(caller.tenant, job_id)
    if await parts.queue.delete(job.id) == "not_finished":
        raise ApiError("not_finished", f"{job.id} is {job.status}; cancel it first, or wait for its end")
    await asyncio.to_thread(parts.images.delete_job, job.tenant, job.id)
    return Response(status_code=204, headers={"Cache-Control": "no-store"})


allow_head(router)


async def _accepted(parts: Service, caller: Caller, job: StoredJob, outcome: str) -> Response:
    fresh = await parts.job_of(job.tenant, job.id)
    if outcome == "already_finished":
        raise ApiError("already_finished", f"{job.id} is already {fresh.status}; there is nothing left to end")
    if outcome == "no_image_yet":
        raise ApiError("no_image_yet", f"{job.id} has no finished image yet; cancel it, or wait for the first")
    parts.traces.cancelled_unbegun(fresh)
    return json_response(await parts.presenter.for_caller(caller).job(fresh), 202)


def _resume_after(last_event_id: str | None, after: int | None) -> int | None:
    """The number to resume after; the header is newer than the address that a browser reconnects to."""
    if last_event_id is None or last_event_id == "":
        return after
    if not last_event_id.isdecimal() or len(last_event_id) > 15:
        detail = f"is {last_event_id[:50]!r}; it must be the number of an event of this job"
        raise invalid_request([Fault("/Last-Event-ID", detail)])
    return int(last_event_id)
