"""What the API answers when something is wrong: one shape for every error, whoever found it.

ApiError (faults.py)        carries a code of CODES below, the sentence for the client, headers, and a body's faults
├── from our own routes     raised where the fault is found
├── from Starlette          404, 405, … are turned into one by `starlette_error`
├── from pydantic           faults of query parameters, by `validation_error`
├── from the image store    away, or refusing, by `store_error`
└── from the queue          unavailable, full, too many, idempotency key used before, by `queue_error`

The shape is RFC 9457's (`application/problem+json`) with `code`, `request_id` and `errors` beside it, and an
`error` object besides, because the `openai` clients read nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from server.faults import ApiError, Fault, faults_of_pydantic
from server.image_errors import StoreAway, StoreFailed
from server.openai_errors import PREFIX, retry_headers, status_below
from server.queue_errors import (
    IdempotencyMismatch,
    QueueError,
    QueueFull,
    QueueUnavailable,
    RateLimited,
    ServerTooOld,
)
from server.rate_limits import note

log = structlog.get_logger("r3.api")

REQUEST_ID_KEY: Final = "r3.request_id"  # where observe.py puts a request's id in its ASGI scope
_FAULTS_IN_DETAIL: Final = 3  # some clients show nothing else
_STORE_RETRY_S: Final = 5
PROBLEM_TYPE: Final = "application/problem+json"

# By code, the status and the title.
CODES: Final[dict[str, tuple[int, str]]] = {
    "malformed_json": (400, "The body is not JSON"),
    "bad_request": (400, "The request cannot be read"),
    "host_not_allowed": (403, "This Host is not served here"),
    "origin_not_allowed": (403, "Pages of this origin may not call this server"),
    "not_found": (404, "There is nothing at this path"),
    "job_not_found": (404, "No such job"),
    "image_not_found": (404, "No such image"),
    "model_not_found": (404, "No such model"),
    "method_not_allowed": (405, "This path does not take that method"),
    "already_finished": (409, "The job is already finished"),
    "not_finished": (409, "The job is not finished"),
    "no_image_yet": (409, "The job has no finished image yet"),
    "cancelled": (409, "The job was cancelled"),
    "model_in_use": (409, "The model is still in use"),
    "payload_too_large": (413, "The body is too large"),
    "unsupported_media_type": (415, "The body is of another type than this path takes"),
    "invalid_request": (422, "The request is not valid"),
    "invalid_image": (422, "The image cannot be used"),
    "idempotency_mismatch": (422, "The idempotency key was used with another body"),
    "prompt_too_long": (422, "The prompt has too many tokens"),
    "out_of_capacity": (422, "The request needs more memory than the worker has"),
    "queue_full": (429, "The queue is full"),
    "headers_too_large": (431, "Too many headers"),
    "internal_error": (500, "Something broke on our side"),
    "step_failed": (500, "A step of the job failed"),
    "poison_job": (500, "The job stopped its worker too often"),
    "storage_failed": (500, "A picture could not be stored or read"),
    "job_failed": (500, "The job failed"),
    "queue_unavailable": (503, "The queue cannot be reached"),
    "storage_unavailable": (503, "The pictures cannot be reached"),
    "model_unknown": (503, "No model is known yet"),
    "shutting_down": (503, "The server is about to end"),
    "no_worker": (503, "No worker is ready"),
    "out_of_memory": (503, "The device ran out of memory"),
    "deadline_exceeded": (504, "The job's deadline passed"),
    "unauthorized": (401, "A key is needed"),
    "forbidden": (403, "The key may not do this"),
    "rate_limited": (429, "Too many requests"),
    "keys_unavailable": (503, "The keys cannot be read"),
}


def invalid_request(faults: Sequence[Fault]) -> ApiError:
    """422 that lists every fault."""
    told = "; ".join(f"{fault.pointer or 'the body'} {fault.detail}" for fault in faults[:_FAULTS_IN_DETAIL])
    more = f"; and {len(faults) - _FAULTS_IN_DETAIL} more, see errors" if len(faults) > _FAULTS_IN_DETAIL else ""
    return ApiError("invalid_request", told + more, faults)


def status_of(code: str) -> int:
    """The status that a code answers with; a code that a newer worker made up is ours, hence 500."""
    return CODES.get(code, CODES["job_failed"])[0]


def problem(error: ApiError, scope: Scope) -> dict[str, Any]:
    """The body of an error's answer."""
    status, title = CODES.get(error.code, CODES["job_failed"])
    faults = [{"pointer": f.pointer, "detail": f.detail} for f in error.faults]
    return {
        "type": f"urn:r3:problem:{error.code}",
        "title": title,
        "status": status_below(scope["path"], status),
        "detail": error.detail,
        "instance": _instance(scope),
        "code": error.code,
        "request_id": scope.get(REQUEST_ID_KEY, ""),
        **({"errors": faults} if faults else {}),
        **error.extra,
        "error": openai_error(error),
    }


def openai_error(error: ApiError) -> dict[str, Any]:
    """The part that the `openai` clients read; they show nothing of what stands beside it."""
    return {
        "message": error.detail,
        "type": _openai_type(status_of(error.code)),
        "code": error.code,
        "param": _openai_param(error.faults),
        **{name: value for name, value in error.extra.items() if name == "job_id"},
    }


def problem_response(error: ApiError, scope: Scope) -> Response:
    """The answer to an error."""
    return Response(
        json_bytes(problem(error, scope)),
        status_below(scope["path"], status_of(error.code)),
        media_type=PROBLEM_TYPE,
        headers={"Cache-Control": "no-store", **retry_headers(error, scope["path"])},
    )


def queue_problem_response(error: QueueError, scope: Scope) -> Response:
    """The answer to an error of the queue's, which tells of the limit that was reached too."""
    limit = error.limit if isinstance(error, QueueFull | RateLimited) else None
    note(scope, [] if limit is None else [limit])
    return problem_response(queue_error(error), scope)


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer; never cached unless a header says otherwise."""
    return Response(
        json_bytes(value),
        status,
        media_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def json_bytes(value: Any) -> bytes:
    """Compact UTF-8 JSON. A lone surrogate, which UTF-8 cannot hold, is written as its JSON escape."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def queue_error(error: QueueError) -> ApiError:
    """The queue's errors in the API's words. Raises those that are faults of ours."""
    if isinstance(error, QueueUnavailable):
        # What was asked may have been done all the same, where only the answer was lost.
        again = f"try again in {_whole(error.retry_after_s)} s, and submit with an Idempotency-Key to make no job twice"
        detail = f"{error.public}; nothing that was accepted is lost: {again}"
        if error.reason:
            log.info("queue unavailable", reason=error.reason)
        return ApiError("queue_unavailable", detail, headers={"Retry-After": _whole(error.retry_after_s)})
    if isinstance(error, QueueFull):
        return ApiError(
            "queue_full", str(error), headers={"Retry-After": _whole(error.retry_after_s)}, extra={"scope": error.scope}
        )
    if isinstance(error, RateLimited):
        return ApiError("rate_limited", str(error), headers={"Retry-After": _whole(error.retry_after_s)})
    if isinstance(error, ServerTooOld):
        return ApiError("queue_unavailable", str(error), headers={"Retry-After": "60"})
    if isinstance(error, IdempotencyMismatch):
        return ApiError("idempotency_mismatch", str(error))
    raise error


def store_error(error: OSError) -> ApiError:
    """The image store's errors in the API's words; what it said of itself is the operator's to know."""
    log.warning("the image store failed", reason=str(error))
    if isinstance(error, StoreAway):
        detail = f"the place where pictures are kept does not answer; nothing is lost, try again in {_STORE_RETRY_S} s"
        return ApiError("storage_unavailable", detail, headers={"Retry-After": str(_STORE_RETRY_S)})
    return ApiError("storage_failed", "the place where pictures are kept refuses; the server's log says more")


def starlette_error(error: HTTPException, scope: Scope, routes: Sequence[BaseRoute]) -> ApiError:
    """Starlette's and FastAPI's own refusals in our shape."""
    if error.status_code == 404:
        what = f"there is nothing at {scope['path'][:200]!r}; "
        return ApiError("not_found", what + (_below_v1(scope, routes) or "see /docs for what there is"))
    if error.status_code == 405:
        allowed = ", ".join(_allowed_methods(scope, routes))
        what = f"{scope['method']} does not work here; "
        detail = what + (_below_v1(scope, routes) or f"use {allowed}")
        return ApiError("method_not_allowed", detail, headers={"Allow": allowed})
    code = next((c for c, (status, _) in CODES.items() if status == error.status_code), "bad_request")
    return ApiError(code, str(error.detail), headers=dict(error.headers or {}))


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Make every error of the app, whose routes are these, answer in the one shape. Unforeseen exceptions are
    observe.py's.
    """

    async def on_api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return problem_response(error, request.scope)

    async def on_queue_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, QueueError)
        return queue_problem_response(error, request.scope)

    async def on_store_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, StoreFailed)
        return problem_response(store_error(error), request.scope)

    async def on_starlette_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem_response(starlette_error(error, request.scope, routes), request.scope)

    async def on_validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        faults = faults_of_pydantic(error.errors(), skip=1)  # a parameter's place begins with "query" or "path"
        return problem_response(invalid_request(faults), request.scope)

    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(QueueError, on_queue_error)
    app.add_exception_handler(StoreFailed, on_store_error)
    app.add_exception_handler(HTTPException, on_starlette_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)


def _instance(scope: Scope) -> str:
    """The path as it was asked for: a URI reference, so still percent-encoded."""
    raw = scope.get("raw_path") or scope.get("path", "").encode("utf-8", "backslashreplace")
    return "".join(chr(b) if 0x21 <= b < 0x7F else f"%{b:02X}" for b in raw.partition(b"?")[0][:500])


def _openai_type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def _openai_param(faults: Iterable[Fault]) -> str | None:
    first = next(iter(faults), None)
    return first.pointer.strip("/").replace("/", ".") or None if first else None


def _whole(seconds: float) -> str:
    return str(max(1, math.ceil(seconds)))


def _below_v1(scope: Scope, routes: Sequence[BaseRoute]) -> str:
    """What to tell an `openai` client that was given our address alone; empty where that is not what is wrong."""
    there = {**scope, "path": PREFIX.rstrip("/") + scope["path"]}
    if not any(route.matches(there)[0] is Match.FULL for route in routes):
        return ""
    return f"did you mean {there['path']!r}? the base_url of the openai clients ends in /v1"


def _allowed_methods(scope: Scope, routes: Sequence[BaseRoute]) -> list[str]:
    """Every method that some route at this path takes; Starlette names those of the first route only."""
    methods: set[str] = set()
    for route in routes:
        match, _ = route.matches(scope)
        if match is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return sorted(methods)
