"""What routes answer, for their `responses` in the contract (openapi.yaml); the shapes stand in views.py."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel

from server.errors import CODES, PROBLEM_TYPE
from server.rate_limits import FIELDS
from server.views import JobView, Json, Problem


def ref(model: type[BaseModel]) -> Json:
    """A reference to a component of the contract."""
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def answer(status: int, model: type[BaseModel], description: str) -> dict[int | str, Json]:
    """A JSON answer, for a route's `responses`."""
    return {status: {"description": description, "content": {"application/json": {"schema": ref(model)}}}}


def text_header(about: str) -> Json:
    """A header of an answer."""
    return {"description": about, "schema": {"type": "string"}}


_RETRY_AFTER: Final[Json] = {"Retry-After": text_header("In seconds.")}
_PROBLEM_HEADERS: Final[dict[int, Json]] = {
    401: {"WWW-Authenticate": text_header("Bearer")},
    429: {**_RETRY_AFTER, **{name: text_header(about) for name, about in FIELDS.items()}},
    503: _RETRY_AFTER,
}


def problems(*statuses: int) -> dict[int | str, Json]:
    """The errors of those statuses, for a route's `responses`; each names the codes it may carry."""
    return {
        status: {
            "description": "code: " + ", ".join(code for code, (answered, _) in CODES.items() if answered == status),
            **({"headers": _PROBLEM_HEADERS[status]} if status in _PROBLEM_HEADERS else {}),
            "content": {PROBLEM_TYPE: {"schema": ref(Problem)}},
        }
        for status in statuses
    }


_STREAM: Final[Json] = {"text/event-stream": {"schema": {"$ref": "#/components/schemas/EventStream"}}}
_HEADERS: Final[Json] = {
    "Location": text_header("/jobs/{id}"),
    "Preference-Applied": text_header("What of Prefer was done."),
    "Idempotent-Replayed": text_header("true where the key had made this job before."),
}

_LINKS: Final[Json] = {
    operation: {"operationId": operation, "parameters": {"job_id": "$response.body#/id"}}
    for operation in ("getJob", "followJob", "cancelJob", "stopJob", "deleteJob")
}

JOB_RESPONSES: Final[dict[int | str, Json]] = {
    200: {
        "description": "The finished job, or its events",
        "headers": _HEADERS,
        "content": {"application/json": {"schema": ref(JobView)}, **_STREAM},
        "links": _LINKS,
    },
    202: {
        "description": "The job, which goes on",
        "headers": _HEADERS,
        "content": {"application/json": {"schema": ref(JobView)}},
        "links": _LINKS,
    },
    **problems(400, 404, 409, 413, 415, 422, 429, 504),
}
EVENTS_RESPONSES: Final[dict[int | str, Json]] = {
    200: {"description": "The job's events", "content": _STREAM},
    204: {"description": "The job is finished and the client has seen its last event"},
    **problems(404, 422),
}
IMAGE_RESPONSES: Final[dict[int | str, Json]] = {
    200: {
        "description": "The bytes",
        "headers": {"ETag": {"schema": {"type": "string"}}, "Cache-Control": {"schema": {"type": "string"}}},
        "content": {
            f"image/{name}": {"schema": {"type": "string", "contentEncoding": "binary"}}
            for name in ("png", "webp", "jpeg")
        },
    },
    304: {"description": "The client has it already"},
    **problems(404, 422),
}
