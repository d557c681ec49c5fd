"""From a request that was judged to a job in the queue: what all routes that make jobs have in common."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import structlog
from fastapi import Request

from r3core.checkpoint import Description
from r3core.versions import STORED_VERSION
from server.body import IN_THREAD_BYTES
from server.callers import Caller
from server.cost import job_cost
from server.errors import invalid_request, queue_error
from server.faults import ApiError, Fault
from server.given_pictures import stored_as
from server.guard import let_go_of_body
from server.hook_rules import allowed
from server.keys import TenantLimits
from server.kinds import GENERATE, Ask
from server.openai_errors import NOT_AGAIN
from server.queue import NewJob, StoredJob, Submitted
from server.queue_errors import REFUSALS, QueueUnavailable
from server.queue_records import new_job_id
from server.rate_limits import note
from server.resolve import SEEDS_DRAWN_BELOW, Body, Read, every_fault
from server.schemas import MAX_DEADLINE_S, JobCreate
from server.service import Service
from server.start_image import StartImage, forget_start_images, take_start_images
from server.traces import Carrier, trace_id_of

log = structlog.get_logger("r3.api")

MAX_KEY_CHARS: Final = 255


@dataclass(frozen=True)
class Asked:
    """A request that was judged, and who sent it. `upload` is the file that its `image` stands for; `ask` says what
    the body is.
    """

    caller: Caller
    body: JobCreate
    description: Description
    idempotency_key: str | None
    body_hash: str
    upload: bytes | None = None
    ask: Ask[Any] = GENERATE

    @property
    def is_lost_unanswered(self) -> bool:
        """Whether nobody would know of the job, nor could ask for it again, if this request were not answered."""
        return bool(self.body.cancel_on_disconnect) and self.idempotency_key is None


async def judge(parts: Service, read: Read[Body], ask: Ask[Any] = GENERATE) -> Description:
    """The model that is meant. Raises ApiError that lists every fault."""
    try:
        description = await parts.catalogue.find(None if "model" in read.wrong else read.body.model)
    except ApiError as error:
        if read.faults:
            raise invalid_request([*read.faults, *error.faults]) from error
        raise
    if faults := every_fault(read, description, ask.faults, allowed(parts.settings.webhook_allow)):
        raise invalid_request(faults)
    return description


async def submit(request: Request, parts: Service, asked: Asked) -> tuple[StoredJob, bool]:
    """The job, and whether the key had made it before. The answer to the request will tell of the tenant's limits."""
    submitted = await _submitted(request, parts, asked)
    let_go_of_body(request.scope)
    note(request.scope, submitted.limits)
    try:
        return await parts.job_of(asked.caller.tenant, submitted.id), submitted.replayed
    except BaseException as error:
        if asked.is_lost_unanswered:
            parts.giving_up.on(submitted.id)
        elif isinstance(error, QueueUnavailable):
            raise _taken_unseen(submitted.id, error, is_keyed=asked.idempotency_key is not None) from error
        raise


def _taken_unseen(job_id: str, error: QueueUnavailable, *, is_keyed: bool) -> ApiError:
    """What to say of a job that is in the queue when the queue has gone away right then. Clients come again by
    themselves where they are told when; without a key that would make a second one.
    """
    log.info("queue unavailable", job_id=job_id, reason=error.reason)
    detail = (
        f"{error.public}; the job was taken before: GET /jobs/{job_id} will say how it stands, do not send it again"
    )
    headers = {"Location": f"/jobs/{job_id}", **(queue_error(error).headers if is_keyed else NOT_AGAIN)}
    return ApiError("queue_unavailable", detail, headers=headers, extra={"job_id": job_id})


async def _submitted(request: Request, parts: Service, asked: Asked) -> Submitted:
    with parts.traces.submitting(request.headers) as span:
        submitted = await _queued(parts, asked, span.trace)
        span.about |= {"job.id": submitted.id, "replayed": submitted.replayed, "model": asked.description.name}
        span.about |= {"n": getattr(asked.body, "n", 1), "priority": asked.body.priority}
    return submitted


async def _queued(parts: Service, asked: Asked, trace: Carrier) -> Submitted:
    job_id, tenant, body = new_job_id(), asked.caller.tenant, asked.body
    quotas = (await parts.authority.ring()).limits_of(tenant)
    given = asked.ask.pictures(body) if asked.upload is None else [("/image", asked.upload)]
    starts: Sequence[StartImage] = ()
    if given:
        # Before its pictures are asked for: those of a job that is done may be gone.
        if (before := await _made_before(parts, asked)) is not None:
            return before
        starts = await take_start_images(parts, tenant, job_id, given, asked.description)
    try:
        new = _new_job(job_id, asked, starts, quotas, trace)
        submitted = await parts.queue.submit(new)
    except REFUSALS:
        # After anything else the job may be there, and need its pictures.
        await forget_start_images(parts, tenant, job_id, starts)
        raise
    except BaseException:
        if asked.is_lost_unanswered:
            parts.giving_up.on(job_id, may_come=True)
        raise
    if submitted.replayed:
        await forget_start_images(parts, tenant, job_id, starts)
    else:
        parts.metrics.jobs_submitted.inc()
        what = {"job_id": job_id, "model": asked.description.name, "n": new.trajectories, "priority": body.priority}
        log.info("job submitted", **what, kind=asked.ask.kind, **trace_id_of(new.request))
    return submitted


async def _made_before(parts: Service, asked: Asked) -> Submitted | None:
    if asked.idempotency_key is None:
        return None
    return await parts.queue.replayed(asked.caller.tenant, asked.idempotency_key, asked.body_hash)


def _new_job(
    job_id: str, submission: Asked, starts: Sequence[StartImage], quotas: TenantLimits, trace: Carrier
) -> NewJob:
    body, description, ask = submission.body, submission.description, submission.ask
    seed = secrets.randbelow(SEEDS_DRAWN_BELOW) if body.seed is None else body.seed
    asked = ask.resolved(body, description, seed, [(start.width, start.height) for start in starts])
    deadline_s = None if body.deadline_s is None else min(body.deadline_s, MAX_DEADLINE_S)
    return NewJob(
        id=job_id,
        tenant=submission.caller.tenant,
        model=description.name,
        request={
            "version": STORED_VERSION,
            "request": asdict(asked),
            **stored_as({start.id: start.record for start in starts}),
            "output_format": getattr(body, "output_format", "png"),
            "output_compression": getattr(body, "output_compression", None),
            "request_id": structlog.contextvars.get_contextvars().get("request_id"),
            **({"trace": trace} if trace else {}),
        },
        params=ask.params(asked, body, [start.id for start in starts]),
        cost=job_cost(asked, len(starts)),
        priority=body.priority,
        idempotency_key=submission.idempotency_key,
        body_hash=submission.body_hash,
        deadline_at_ms=None if deadline_s is None else int((time.time() + deadline_s) * 1000),
        metadata=body.metadata,
        parent=starts[0].parent if len(starts) == 1 else None,
        quotas=quotas,
        webhook=None if body.webhook is None else body.webhook.model_dump(),
    )


def check_key(keys: Sequence[str]) -> None:
    """Refuse what is no Idempotency-Key. Raises ApiError."""
    if len(keys) > 1:
        raise invalid_request([Fault("/Idempotency-Key", f"is there {len(keys)} times; send one")])
    for key in keys:
        if not (1 <= len(key) <= MAX_KEY_CHARS and key.isprintable()):
            detail = f"has {len(key)} characters; it must have 1 to {MAX_KEY_CHARS}, all printable"
            raise invalid_request([Fault("/Idempotency-Key", detail)])


async def hash_of(request: Request, value: Any) -> str:
    """The hash of the body's meaning: spaces and the order of names do not make it another.

    That of a large body, one with pictures, is made in a thread: it takes as long as it is read.
    """
    if int(request.headers.get("content-length", IN_THREAD_BYTES)) < IN_THREAD_BYTES:
        return _hash(value)
    return await asyncio.to_thread(_hash, value)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
