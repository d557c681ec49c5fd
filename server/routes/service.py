"""How the process is (probes, metrics), what it serves (/info), and how to talk to it (/openapi.*)."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

import server
from r3core.checkpoint import Description
from server.answers import answer, problems
from server.callers import Reader, may
from server.contract import openapi_yaml
from server.errors import json_response
from server.faults import ApiError
from server.metrics_port import measured
from server.pictures import MAX_BYTES, MAX_PIXELS, MAX_WEBP_PIXELS
from server.ranges import ranges
from server.resolve import postable
from server.routes import allow_head
from server.schemas import MAX_PROMPT_CHARS, ReadyQuery
from server.service import Parts, Service
from server.service_views import Alive, Info, Ready

router = APIRouter(tags=["service"])

Responses = dict[int | str, dict[str, Any]]

_ALIVE = answer(200, Alive, "The process lives")
_TEXT: Responses = {200: {"description": "Text", "content": {"text/plain": {"schema": {"type": "string"}}}}}
_YAML: Responses = {
    200: {"description": "This document", "content": {"application/yaml": {"schema": {"type": "object"}}}}
}
_JSON: Responses = {
    200: {"description": "This document", "content": {"application/json": {"schema": {"type": "object"}}}}
}


@router.get("/livez", operation_id="livez", summary="Is the process alive?", responses=_ALIVE)
@router.get("/healthz", operation_id="healthz", summary="The same as /livez", responses=_ALIVE)
@router.get("/startupz", operation_id="startupz", summary="Has the process started?", responses=_ALIVE)
async def alive() -> Response:
    """200 while the event loop turns; the queue is never asked."""
    return json_response({"status": "ok"})


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Can jobs be taken?",
    responses={**answer(200, Ready, "Redis answers"), **problems(422)},
)
async def ready(parts: Parts, query: Annotated[ReadyQuery, Query()]) -> Response:
    """200 once Redis answers; with `workers=1`, once a worker with a loaded model is heard from, too."""
    told = await parts.readiness.told(parts.queue, parts.catalogue)
    if query.workers == "1" and not told.workers:
        raise ApiError(
            "no_worker",
            "no worker with a loaded model is heard from; jobs are taken and wait",
            headers={"Retry-After": "5"},
        )
    return json_response({"status": "ready", "workers": told.workers, "models": told.models})


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    responses=_TEXT,
    dependencies=[Depends(may("admin"))],
)
async def metrics(parts: Parts) -> Response:
    """This process's counters, and the queue's numbers while Redis answers."""
    return await measured(parts)


@router.get(
    "/info",
    operation_id="info",
    summary="Models, limits, versions",
    responses={**answer(200, Info, "What is served"), **problems(422)},
)
async def info(parts: Parts, _caller: Reader) -> Response:
    """Every known model with its sizes, defaults and example prompts, and the limits of this server."""
    known = await parts.catalogue.known()
    default = parts.settings.default_model or (next(iter(known)) if len(known) == 1 else None)
    return json_response(
        {
            "default_model": default,
            "models": [model_json(description) for _, description in sorted(known.items())],
            "limits": _limits(parts),
            "ranges": ranges(),
            "versions": {
                "server": server.__version__,
                "python": platform.python_version(),
                **{name: _version(name) for name in ("fastapi", "pydantic", "redis")},
            },
        }
    )


@router.get("/openapi.json", operation_id="openapiJson", summary="This document", responses=_JSON)
async def openapi_as_json(request: Request) -> Response:
    """The contract as JSON."""
    return json_response(request.app.openapi())


@router.get("/openapi.yaml", operation_id="openapiYaml", summary="This document", responses=_YAML)
async def openapi_as_yaml(request: Request) -> Response:
    """The contract as YAML."""
    return Response(openapi_yaml(request.app), media_type="application/yaml", headers={"Cache-Control": "no-store"})


allow_head(router)


def model_json(description: Description) -> dict[str, Any]:
    """What is told of a model."""
    vae = description.transforms["vae"]
    plain = description.to_json()
    width, height = description.default_size
    return {
        "name": description.name,
        "description": description.description,
        "licence": description.licence,
        "hash": description.hash,
        "sizes": {
            "default": f"{width}x{height}",
            "multiple_of": description.latent_stride,
            "longest_edge": min(vae[0], description.latent_stride * description.latent_side),
            "shortest_edge": vae[1],
        },
        "max_context_tokens": description.max_context_tokens,
        "defaults": postable(plain["defaults"]),
        "example_prompts": list(description.example_prompts),
    }


def _limits(parts: Service) -> dict[str, int]:
    settings = parts.settings
    return {
        "prompt_characters": MAX_PROMPT_CHARS,
        "body_bytes": settings.max_body_bytes,
        "image_bytes": MAX_BYTES,
        "image_pixels": MAX_PIXELS,
        "webp_pixels": MAX_WEBP_PIXELS,
        "queued_jobs": settings.queue_limit,
        "queued_jobs_per_tenant": settings.tenant_queue_limit,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
