"""Read-only links to a job: whoever has one may read and follow this one job and its pictures, and nothing else."""

from __future__ import annotations

import secrets

from fastapi import APIRouter, Depends, Request
from pydantic import ValidationError
from starlette.responses import Response

from server.answers import answer, problems
from server.body import read_json
from server.callers import Maker
from server.errors import invalid_request, json_response
from server.faults import faults_of_pydantic
from server.queue_records import rfc3339
from server.schemas import MAX_DEADLINE_S, ShareCreate
from server.service import Parts, job_not_found, refuse_token
from server.views import ShareView

router = APIRouter(prefix="/jobs", tags=["jobs"], dependencies=[Depends(refuse_token)])

_TOKEN_BYTES = 32


@router.post(
    "/{job_id}/share",
    operation_id="shareJob",
    summary="Make a read-only link",
    responses={**answer(200, ShareView, "The link, which is shown this once"), **problems(400, 404, 413, 415, 422)},
)
async def share_job(parts: Parts, caller: Maker, job_id: str, request: Request) -> Response:
    """A link that needs no key: it reads the job, its events and its pictures until it expires or is revoked."""
    asked = _read(await read_json(request))
    job = await parts.job_of(caller.tenant, job_id)
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    expires_ms = await parts.queue.share(job, token, min(asked.expires_s, MAX_DEADLINE_S))
    if expires_ms is None:  # it was deleted meanwhile
        raise job_not_found(job_id)
    return json_response({"url": f"/jobs/{job.id}?token={token}", "expires_at": rfc3339(expires_ms)})


@router.delete(
    "/{job_id}/share",
    operation_id="unshareJob",
    summary="Revoke the links",
    status_code=204,
    responses={204: {"description": "No link to the job is good any longer"}, **problems(404, 422)},
)
async def unshare_job(parts: Parts, caller: Maker, job_id: str) -> Response:
    """Revoke every read-only link to the job; where there is none, that is no error."""
    job = await parts.job_of(caller.tenant, job_id)
    await parts.queue.unshare(job.id)
    return Response(status_code=204, headers={"Cache-Control": "no-store"})


def _read(value: object) -> ShareCreate:
    try:
        return ShareCreate.model_validate(value)
    except ValidationError as error:
        faults = faults_of_pydantic(error.errors(include_url=False), known=ShareCreate.model_fields)
        raise invalid_request(faults) from error
