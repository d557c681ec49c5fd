"""For operators: how the queues are, pausing them, and everyone's jobs. Each act leaves one line in the audit log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from server.admin_views import (
    POISONED,
    ForgetCreate,
    OperatorJobList,
    OperatorJobsQuery,
    OperatorJobView,
    PauseCreate,
    QueueView,
    operator_job_json,
    queue_json,
)
from server.answers import answer, problems, text_header
from server.audit import audit
from server.body import read_json
from server.callers import may
from server.errors import invalid_request, json_response
from server.faults import ApiError, Fault, faults_of_pydantic
from server.queue import QueueUnavailable, StoredJob
from server.retry import submit_again
from server.routes import allow_head
from server.service import Parts, Service, is_id, job_not_found

B = TypeVar("B", bound=BaseModel)

router = APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(may("admin"))])

_QUEUE = answer(200, QueueView, "How the queues are")
_PAUSED = {**_QUEUE, **problems(400, 404, 413, 415, 422)}
_FORGOTTEN = {**_QUEUE, **problems(400, 404, 409, 413, 415, 422)}
_JOB = {**answer(200, OperatorJobView, "The job as it stands"), **problems(404, 422)}
_CANCELLED = {**answer(202, OperatorJobView, "Accepted; the job as it stands"), **problems(404, 409, 422)}
_RETRIED = {**answer(202, OperatorJobView, "The new job"), **problems(404, 409, 422, 429)}
_RETRIED[202]["headers"] = {
    "Location": text_header("/jobs/{id}"),
    "Idempotent-Replayed": text_header("true where it was tried again before: this is that job."),
}


@router.get("/queue", operation_id="showQueue", summary="How the queues are", responses=_QUEUE)
async def show_queue(parts: Parts) -> Response:
    """What waits and runs of each model, and the workers that are heard from."""
    return await _queue(parts)


@router.post("/queue/pause", operation_id="pauseQueue", summary="Pause", responses=_PAUSED)
async def pause_queue(parts: Parts, request: Request) -> Response:
    """Hand out no more jobs, of one model or of any. What runs goes on to its end; new jobs are taken, and wait."""
    model = (await _asked(request, PauseCreate)).model
    if model is not None:
        await _check_known(parts, model)
    with _audited("queue paused", request, model=model or "all"):
        await parts.queue.admin.pause(model)
    return await _queue(parts)


@router.post("/queue/resume", operation_id="resumeQueue", summary="Resume", responses=_PAUSED)
async def resume_queue(parts: Parts, request: Request) -> Response:
    """Hand out jobs again: of one model, or of all, whatever was paused."""
    model = (await _asked(request, PauseCreate)).model
    with _audited("queue resumed", request, model=model or "all"):
        if not await parts.queue.admin.resume(model) and model is not None:
            await _check_known(parts, model)
    return await _queue(parts)


@router.post("/queue/forget", operation_id="forgetModel", summary="Forget a model", responses=_FORGOTTEN)
async def forget_model(parts: Parts, request: Request) -> Response:
    """Take no more jobs for a model that no worker serves any more, and of which nothing waits or runs. A worker that
    loads it makes it known again.
    """
    model = (await _asked(request, ForgetCreate)).model
    own = await parts.catalogue.described_by_files()
    if own is not None and own.name == model:
        raise ApiError("model_in_use", f"{model} is the one that R3_CHECKPOINT of the API describes; change that first")
    with _audited("model forgotten", request, model=model):
        match await parts.queue.admin.forget(model):
            case "unknown":
                await _check_known(parts, model)
            case "used":
                detail = f"jobs for {model} wait or run; cancel them, or let a worker end them, and then forget it"
                raise ApiError("model_in_use", detail)
            case "served":
                told = f"a worker with {model} was heard from in the last ten minutes"
                detail = f"{told}; end it, which it tells the queue of, or wait, and then forget the model"
                raise ApiError("model_in_use", detail)
    return await _queue(parts)


@router.get(
    "/jobs",
    operation_id="listEveryonesJobs",
    summary="List everyone's jobs",
    responses={**answer(200, OperatorJobList, "A page"), **problems(422)},
)
async def list_jobs(parts: Parts, request: Request, query: Annotated[OperatorJobsQuery, Query()]) -> Response:
    """The jobs of all tenants or of one, newest first; or those that were given up, the last one first."""
    try:
        jobs, next_cursor = await _page(parts, query)
    except ValueError as error:
        raise invalid_request([Fault("/cursor", str(error))]) from error
    audit("jobs listed", request, of=query.tenant or "all")
    waiting = await parts.queue.positions([(job.model, job.id) for job in jobs if job.status == "queued"])
    shown = [parts.presenter.linked(job, operator_job_json(job, waiting.get(job.id, (None, None)))) for job in jobs]
    return json_response({"jobs": shown, "next_cursor": next_cursor})


@router.get("/jobs/{job_id}", operation_id="getAnyJob", summary="Read anyone's job", responses=_JOB)
async def get_job(parts: Parts, request: Request, job_id: str) -> Response:
    """The job of whichever tenant it is."""
    job = await _job(parts, job_id)
    audit("job read", request, of=job.tenant, job_id=job.id)
    return json_response(await _shown(parts, job))


@router.post(
    "/jobs/{job_id}/cancel",
    operation_id="cancelAnyJob",
    summary="Cancel anyone's job",
    status_code=202,
    responses=_CANCELLED,
)
async def cancel_job(parts: Parts, request: Request, job_id: str) -> Response:
    """Stop computing within one step; the job ends `cancelled`, and what is finished stays."""
    job = await _job(parts, job_id)
    with _audited("job cancelled", request, of=job.tenant, job_id=job.id):
        outcome = await parts.queue.cancel(job.id)
        if outcome != "accepted":
            job = await _job(parts, job_id)  # as it is by now, where it is still there
            raise ApiError("already_finished", f"{job.id} is already {job.status}; there is nothing left to end")
    job = await _job(parts, job_id)
    parts.traces.cancelled_unbegun(job)
    return json_response(await _shown(parts, job), 202)


@router.post(
    "/jobs/{job_id}/retry",
    operation_id="retryJob",
    summary="Try a job again",
    status_code=202,
    responses=_RETRIED,
)
async def retry_job(parts: Parts, request: Request, job_id: str) -> Response:
    """Submit a job that failed, was cancelled or was given up once more, as a new one of its tenant's with the same
    request and seed, and with the old one as its `parent`. Asked twice, it is the same new job.
    """
    job = await _job(parts, job_id)
    with _audited("job retried", request, of=job.tenant, job_id=job.id) as said:
        submitted = await submit_again(parts, job)
        said["new_job_id"] = submitted.id
    headers = {"Location": f"/jobs/{submitted.id}", **({"Idempotent-Replayed": "true"} if submitted.replayed else {})}
    return json_response(await _shown(parts, await _job(parts, submitted.id)), 202, headers)


allow_head(router)


@contextmanager
def _audited(act: str, request: Request, **what: Any) -> Iterator[dict[str, Any]]:
    """Write an act down once it is done, and also where it cannot be known whether it is; not where it was refused."""
    try:
        yield what
    except QueueUnavailable:
        audit(act, request, **what, outcome="unknown: the queue did not answer")
        raise
    audit(act, request, **what)


async def _queue(parts: Service) -> Response:
    return json_response(queue_json(await parts.queue.depth(), await parts.queue.workers()))


async def _asked(request: Request, kind: type[B]) -> B:
    value = await read_json(request)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        faults = faults_of_pydantic(error.errors(include_url=False), known=kind.model_fields)
        raise invalid_request(faults) from error


async def _check_known(parts: Service, model: str) -> None:
    known = {*await parts.catalogue.known(), *(await parts.queue.depth())["models"]}
    if model not in known:
        names = f"use one of {', '.join(sorted(known))}" if known else "none is known yet"
        detail = f"no model is named {model[:100]!r}; {names}, or name none for all of them"
        raise ApiError("model_not_found", detail, [Fault("/model", "is not the name of a known model")])


async def _page(parts: Service, query: OperatorJobsQuery) -> tuple[list[StoredJob], str | None]:
    if query.status != POISONED:
        return await parts.queue.admin.jobs(query.tenant, query.status, query.limit, query.cursor)
    jobs, next_cursor = await parts.queue.admin.poisoned(query.limit, query.cursor)
    return [job for job in jobs if query.tenant in (None, job.tenant)], next_cursor


async def _job(parts: Service, job_id: str) -> StoredJob:
    """Whoever's job. Raises ApiError job_not_found."""
    job = await parts.queue.job(job_id) if is_id(job_id, "job_") else None
    if job is None:
        raise job_not_found(job_id)
    return job


async def _shown(parts: Service, job: StoredJob) -> dict[str, Any]:
    position = await parts.queue.position(job) if job.status == "queued" else (None, None)
    return parts.presenter.linked(job, operator_job_json(job, position))
