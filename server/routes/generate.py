"""POST /generate: judge the body, submit the job, and answer the way the client asked: a stream, at once, or after a
wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Header, Request
from starlette.responses import Response

from r3core.checkpoint import Description
from r3core.versions import STORED_VERSION
from server.answers import GENERATE_RESPONSES
from server.authority import refused
from server.body import read_json
from server.callers import Caller, Maker
from server.errors import invalid_request, json_response, status_of
from server.faults import ApiError, Fault
from server.hook_rules import allowed
from server.hub import KEYS_UNAVAILABLE, UNAUTHORIZED
from server.keys import TenantLimits
from server.negotiation import mode_of
from server.queue import NewJob, QueueError, StoredJob, Submitted
from server.queue_errors import REFUSALS
from server.queue_records import job_cost, new_job_id
from server.rate_limits import note
from server.resolve import SEEDS_DRAWN_BELOW, faults_against, read_generation, resolved, shown_params
from server.schemas import MAX_DEADLINE_S, GenerationCreate
from server.service import Parts, Service, refuse_token
from server.sse import EventStreamResponse, until_hang_up
from server.start_image import StartImage, take_start_image

log = structlog.get_logger("r3.api")
router = APIRouter(tags=["generate"])

MAX_KEY_CHARS = 255


@dataclass(frozen=True)
class Asked:
    """A request that was judged, and who sent it."""

    caller: Caller
    body: GenerationCreate
    description: Description
    idempotency_key: str | None
    body_hash: str


@dataclass(frozen=True)
class Waiting:
    """Who waits for which job, for how long, and what is done where they hang up."""

    caller: Caller
    job: StoredJob
    wait_s: float
    on_hang_up: Callable[[], Awaitable[None]] | None


@router.post(
    "/generate",
    operation_id="generate",
    summary="Make a picture and refine it",
    responses=GENERATE_RESPONSES,
    dependencies=[Depends(refuse_token)],
)
async def generate(
    request: Request,
    parts: Parts,
    caller: Maker,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key", description="The same key with the same body gives the same job, for 24 hours."
        ),
    ] = None,
    prefer: Annotated[
        list[str] | None,
        Header(alias="Prefer", description="respond-async: answer at once; wait=N: wait at most N seconds."),
    ] = None,
) -> Response:
    """Reason, draw, look at what was drawn, and edit, until the model is satisfied or the rounds are used up.

    Answers with the job's events (`stream`, or `Accept: text/event-stream`), at once (`Prefer: respond-async`), or
    else with the finished job; where that takes longer than the wait, with the job as it stands and its `Location`.
    """
    value = await read_json(request)
    body, description = await _judged(parts, value)
    mode = mode_of(body.stream, request.headers.getlist("accept"), prefer or [], parts.settings.wait_s)
    _check_key(request.headers.getlist("idempotency-key"))
    asked = Asked(caller, body, description, idempotency_key, _hash_of(value))
    submitted = await _submit(parts, asked)
    note(request.scope, submitted.limits)
    job = await parts.job_of(caller.tenant, submitted.id)
    headers = {"Location": f"/jobs/{job.id}"}
    if submitted.replayed:
        headers["Idempotent-Replayed"] = "true"
    if mode.applied is not None:
        headers["Preference-Applied"] = mode.applied
    on_hang_up = _canceller(parts, job) if body.cancel_on_disconnect else None
    if mode.stream:
        return EventStreamResponse(await parts.open_stream(caller, job, 0), parts.metrics, headers, on_hang_up)
    return await _waited(request, parts, Waiting(caller, job, mode.wait_s, on_hang_up), headers)


async def _judged(parts: Service, value: Any) -> tuple[GenerationCreate, Description]:
    """The body and its model. Raises ApiError that lists every fault."""
    asked = read_generation(value)
    try:
        description = await parts.catalogue.find(None if "model" in asked.wrong else asked.body.model)
    except ApiError as error:
        if asked.faults:
            raise invalid_request([*asked.faults, *error.faults]) from error
        raise
    if faults := faults_against(asked, description, allowed(parts.settings.webhook_allow)):
        raise invalid_request(faults)
    return asked.body, description


async def _submit(parts: Service, asked: Asked) -> Submitted:
    job_id, tenant, body = new_job_id(), asked.caller.tenant, asked.body
    quotas = (await parts.authority.ring()).limits_of(tenant)
    start = None
    if body.image is not None:
        start = await take_start_image(parts, tenant, job_id, body.image, asked.description)
    try:
        submitted = await parts.queue.submit(_new_job(job_id, asked, start, quotas))
    except REFUSALS:
        await _forget(parts, tenant, job_id, start)  # after anything else the job may be there, and need its picture
        raise
    if submitted.replayed:
        await _forget(parts, tenant, job_id, start)
    else:
        parts.metrics.jobs_submitted.inc()
        log.info("job submitted", job_id=job_id, model=asked.description.name, n=body.n, priority=body.priority)
    return submitted


def _new_job(job_id: str, submission: Asked, start: StartImage | None, quotas: TenantLimits) -> NewJob:
    body, description = submission.body, submission.description
    seed = secrets.randbelow(SEEDS_DRAWN_BELOW) if body.seed is None else body.seed
    asked = resolved(body, description, seed, None if start is None else (start.width, start.height))
    start_id = None if start is None else start.id
    deadline_s = None if body.deadline_s is None else min(body.deadline_s, MAX_DEADLINE_S)
    return NewJob(
        id=job_id,
        tenant=submission.caller.tenant,
        model=description.name,
        request={
            "version": STORED_VERSION,
            "request": asdict(asked),
            "start_image": start_id,
            "start_record": None if start is None else start.record,
            "output_format": body.output_format,
            "output_compression": body.output_compression,
            "request_id": structlog.contextvars.get_contextvars().get("request_id"),
        },
        params=shown_params(asked, body, start_id),
        cost=job_cost(asked),
        priority=body.priority,
        idempotency_key=submission.idempotency_key,
        body_hash=submission.body_hash,
        deadline_at_ms=None if deadline_s is None else int((time.time() + deadline_s) * 1000),
        metadata=body.metadata,
        parent=None if start is None else start.parent,
        quotas=quotas,
        webhook=None if body.webhook is None else body.webhook.model_dump(),
    )


async def _forget(parts: Service, tenant: str, job_id: str, start: StartImage | None) -> None:
    """Remove the picture of a job that did not come about; what is left behind all the same is swept later."""
    if start is not None:
        await asyncio.to_thread(parts.images.delete_job, tenant, job_id)


async def _waited(request: Request, parts: Service, waiting: Waiting, headers: dict[str, str]) -> Response:
    """The finished job, or the job as it stands where it takes longer, the server stops, or the client is gone."""
    job, presenter = waiting.job, parts.presenter.for_caller(waiting.caller)
    ended = await _until_ended(request, parts, waiting) if waiting.wait_s > 0 else None
    if ended is None:
        shown = await presenter.job(await parts.job_of(job.tenant, job.id))
        return json_response(shown, 202, headers)
    if ended.status == "succeeded":
        return json_response(await presenter.job(ended), 200, headers)
    raise _failure(ended, headers)


async def _until_ended(request: Request, parts: Service, waiting: Waiting) -> StoredJob | None:
    job, on_hang_up = waiting.job, waiting.on_hang_up
    with parts.hub.follow(job.id, job.model) as follower:
        follower.caller = waiting.caller
        listener = asyncio.create_task(until_hang_up(request.receive))
        listener.add_done_callback(lambda _: follower.hang_up())
        try:
            async with asyncio.timeout(waiting.wait_s):
                while not (follower.closing or follower.has_hung_up):
                    fresh = await parts.job_of(job.tenant, job.id)
                    if fresh.is_finished:
                        return fresh
                    while not any(m.is_terminal for m in follower.take()) and not follower.must_look():
                        await follower.wake.wait()
        except TimeoutError:
            return None
        finally:
            listener.cancel()
        if follower.closing in (UNAUTHORIZED, KEYS_UNAVAILABLE) and await parts.authority.no_longer_good(
            [waiting.caller]
        ):
            raise refused("this key was revoked while its request was waiting; use another", "invalid_token")
        if follower.has_hung_up and on_hang_up is not None:
            await on_hang_up()
    return None


def _failure(job: StoredJob, headers: dict[str, str]) -> ApiError:
    """What a job that came to nothing answers: its error's own status."""
    if job.status == "cancelled":
        return ApiError("cancelled", f"{job.id} was cancelled", headers=headers, extra={"job_id": job.id})
    error = job.error or {}
    code, message = error.get("code", "job_failed"), error.get("message", "no reason was recorded")
    more = {"Retry-After": "10"} if status_of(code) == 503 else {}
    return ApiError(code, message, headers={**headers, **more}, extra={"job_id": job.id})


def _canceller(parts: Service, job: StoredJob) -> Callable[[], Awaitable[None]]:
    async def cancel() -> None:
        with suppress(QueueError):
            log.info("client hung up; its job is cancelled", job_id=job.id)
            await parts.queue.cancel(job.id)

    return cancel


def _check_key(keys: Sequence[str]) -> None:
    if len(keys) > 1:
        raise invalid_request([Fault("/Idempotency-Key", f"is there {len(keys)} times; send one")])
    for key in keys:
        if not (1 <= len(key) <= MAX_KEY_CHARS and key.isprintable()):
            detail = f"has {len(key)} characters; it must have 1 to {MAX_KEY_CHARS}, all printable"
            raise invalid_request([Fault("/Idempotency-Key", detail)])


def _hash_of(value: Any) -> str:
    """Of the body's meaning: spaces and the order of names do not make it another."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
