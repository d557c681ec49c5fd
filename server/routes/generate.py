"""POST /generate and the jobs beside it: judge the body, submit the job, and answer the way the client asked: a stream,
at once, or after a wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Header, Request
from starlette.responses import Response

from server.answers import JOB_RESPONSES
from server.body import read_json
from server.callers import Caller, Maker
from server.errors import json_response
from server.job_end import Waiting, failure, told, until_ended
from server.kinds import DESCRIBE, GENERATE, REFLECT, ROUNDTRIP, SCORE, Ask
from server.negotiation import Mode, mode_of
from server.queue import QueueUnavailable, StoredJob
from server.service import Parts, Service, refuse_token
from server.sse import EventStreamResponse
from server.submission import Asked, check_key, hash_of, judge, submit

log = structlog.get_logger("r3.api")

router = APIRouter(tags=["generate"], responses=JOB_RESPONSES, dependencies=[Depends(refuse_token)])


Key = Annotated[
    str | None,
    Header(alias="Idempotency-Key", description="The same key with the same body gives the same job, for 24 hours."),
]
Prefer = Annotated[
    list[str] | None,
    Header(alias="Prefer", description="respond-async: answer at once; wait=N: wait at most N seconds."),
]


@dataclass(frozen=True)
class _Call:
    """What every route here is given."""

    request: Request
    parts: Service
    caller: Caller
    key: str | None
    prefer: Sequence[str]


def _call(request: Request, parts: Parts, caller: Maker, key: Key = None, prefer: Prefer = None) -> _Call:
    return _Call(request, parts, caller, key, prefer or ())


Called = Annotated[_Call, Depends(_call)]


@router.post(
    "/generate",
    operation_id="generate",
    summary="Make a picture and refine it",
)
async def generate(call: Called) -> Response:
    """Reason, draw, look at what was drawn, and edit, until the model is satisfied or the rounds are used up.

    Answers with the job's events (`stream`, or `Accept: text/event-stream`), at once (`Prefer: respond-async`), or
    else with the finished job; where that takes longer than the wait, with the job as it stands and its `Location`.
    """
    return await _answered(call, GENERATE)


@router.post(
    "/score",
    operation_id="score",
    summary="Score pictures against a prompt",
)
async def score(call: Called) -> Response:
    """How well one picture, or each of up to 16, shows the prompt by what the model makes of it. Answers as /generate
    does; the job's `result` has the scores.
    """
    return await _answered(call, SCORE)


@router.post(
    "/reflect",
    operation_id="reflect",
    summary="Say how to edit a picture",
)
async def reflect(call: Called) -> Response:
    """What the model would change of a picture so that it shows the prompt; nothing is drawn. Answers as /generate
    does; the job's `result` has the reflection.
    """
    return await _answered(call, REFLECT)


@router.post(
    "/describe",
    operation_id="describe",
    summary="Say what a picture shows",
)
async def describe(call: Called) -> Response:
    """What the model sees in a picture, or its answer to a question about it. Answers as /generate does; the job's
    `result` has the text.
    """
    return await _answered(call, DESCRIBE)


@router.post(
    "/roundtrip",
    operation_id="roundtrip",
    summary="Draw a picture from its own description",
)
async def roundtrip(call: Called) -> Response:
    """Describe a picture, draw one from the description alone, and say how alike the two are. Answers as /generate
    does; the job's `result` has description, both pictures and the similarities.
    """
    return await _answered(call, ROUNDTRIP)


async def _answered(call: _Call, ask: Ask[Any]) -> Response:
    parts = call.parts
    job, mode, gives_up, headers = await _submitted(call, ask)
    on_hang_up = partial(parts.giving_up.on, job.id) if gives_up else None
    if mode.stream:
        return EventStreamResponse(await parts.open_stream(call.caller, job, 0), parts.metrics, headers, on_hang_up)
    return await _waited(call.request, parts, Waiting(call.caller, job, mode.wait_s, on_hang_up), headers)


async def _submitted(call: _Call, ask: Ask[Any]) -> tuple[StoredJob, Mode, bool, dict[str, str]]:
    """The job, how its end is told, whether it is cancelled for who hangs up, and headers.

    The body goes with this call: who waits for pictures is not to hold an upload in memory all the while.
    """
    request, parts = call.request, call.parts
    value = await read_json(request)
    read = ask.read(value)
    body, description = read.body, await judge(parts, read, ask)
    mode = mode_of(body.stream, request.headers.getlist("accept"), call.prefer, parts.settings.wait_s)
    check_key(request.headers.getlist("idempotency-key"))
    known_by = await hash_of(request, ask.known_by(value))
    asked = Asked(call.caller, body, description, call.key, known_by, ask=ask)
    job, replayed = await submit(request, parts, asked)
    headers = {"Location": f"/jobs/{job.id}"}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    if mode.applied is not None:
        headers["Preference-Applied"] = mode.applied
    return job, mode, bool(body.cancel_on_disconnect), headers


async def _waited(request: Request, parts: Service, waiting: Waiting, headers: dict[str, str]) -> Response:
    """The finished job, or the job as it stands where it takes longer, the server stops, or the client is gone."""
    job, presenter = waiting.job, parts.presenter.for_caller(waiting.caller)
    ended = await until_ended(request, parts, waiting) if waiting.wait_s != 0 else None
    if ended is None:
        try:
            shown = await presenter.job(await parts.job_of(job.tenant, job.id))
        except QueueUnavailable as error:  # then as it was: without its address who sent it could only send another
            log.warning("a job is shown as it was when it was sent", job_id=job.id, reason=str(error))
            shown = presenter.job_at_hand(job)
        return json_response(shown, 202, headers)
    if ended.status == "succeeded":
        return json_response(await told(request, parts, waiting, partial(presenter.job, ended), headers), 200, headers)
    raise failure(ended, headers, is_keyed="idempotency-key" in request.headers)
