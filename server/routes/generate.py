"""POST /generate: judge the body, submit the job, and answer the way the client asked: a stream, at once, or after a
wait.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from starlette.responses import Response

from server.answers import GENERATE_RESPONSES
from server.body import read_json
from server.callers import Maker
from server.errors import json_response
from server.job_end import Waiting, canceller, failure, until_ended
from server.negotiation import mode_of
from server.resolve import read_generation
from server.service import Parts, Service, refuse_token
from server.sse import EventStreamResponse
from server.submission import Asked, check_key, hash_of, judge, submit

router = APIRouter(tags=["generate"])


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
    read = read_generation(value)
    body, description = read.body, await judge(parts, read)
    mode = mode_of(body.stream, request.headers.getlist("accept"), prefer or [], parts.settings.wait_s)
    check_key(request.headers.getlist("idempotency-key"))
    asked = Asked(caller, body, description, idempotency_key, hash_of(value))
    job, replayed = await submit(request, parts, asked)
    headers = {"Location": f"/jobs/{job.id}"}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    if mode.applied is not None:
        headers["Preference-Applied"] = mode.applied
    on_hang_up = canceller(parts, job) if body.cancel_on_disconnect else None
    if mode.stream:
        return EventStreamResponse(await parts.open_stream(caller, job, 0), parts.metrics, headers, on_hang_up)
    return await _waited(request, parts, Waiting(caller, job, mode.wait_s, on_hang_up), headers)


async def _waited(request: Request, parts: Service, waiting: Waiting, headers: dict[str, str]) -> Response:
    """The finished job, or the job as it stands where it takes longer, the server stops, or the client is gone."""
    job, presenter = waiting.job, parts.presenter.for_caller(waiting.caller)
    ended = await until_ended(request, parts, waiting) if waiting.wait_s != 0 else None
    if ended is None:
        shown = await presenter.job(await parts.job_of(job.tenant, job.id))
        return json_response(shown, 202, headers)
    if ended.status == "succeeded":
        return json_response(await presenter.job(ended), 200, headers)
    raise failure(ended, headers)
