"""openapi.yaml from the app: FastAPI finds the routes and parameters, and here stands what it cannot know.

That is the bodies that routes read by themselves, the shapes of answers and events, and the errors that every route
may give.
"""

from __future__ import annotations

from typing import Any, Final

import yaml
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import server
from server.admin_views import ForgetCreate, OperatorJobList, OperatorJobView, PauseCreate, QueueView
from server.answers import problems, ref, text_header
from server.doors import HEALTH_PATHS, is_open
from server.event_views import EVENTS, stream_schema
from server.openai_errors import status_below
from server.openai_request import ImagesEdit, ImagesGenerate, R3Settings
from server.openai_shapes import EDIT_EVENTS, GENERATION_EVENTS, SHAPES
from server.openai_shapes import stream_schema as openai_stream_schema
from server.schemas import GenerationCreate, ShareCreate
from server.service_views import Alive, Info, Ready
from server.task_schemas import DescribeCreate, ReflectCreate, RoundtripCreate, ScoreCreate
from server.views import JobList, JobView, Problem, SessionView, ShareView

Json = dict[str, Any]

_REF: Final = "#/components/schemas/{model}"
_ANSWERED: Final = (Alive, Info, JobList, JobView, Problem, Ready, SessionView, ShareView)
_OPERATORS: Final = (OperatorJobList, OperatorJobView, QueueView)
_BODIES: Final[dict[str, type[BaseModel]]] = {
    "/generate": GenerationCreate,
    "/score": ScoreCreate,
    "/reflect": ReflectCreate,
    "/describe": DescribeCreate,
    "/roundtrip": RoundtripCreate,
    "/jobs/{job_id}/share": ShareCreate,
    "/v1/images/generations": ImagesGenerate,
    "/v1/images/edits": ImagesEdit,
    "/admin/queue/pause": PauseCreate,
    "/admin/queue/resume": PauseCreate,
    "/admin/queue/forget": ForgetCreate,
}
_FORMS: Final = frozenset({"/v1/images/edits"})
_JOB_PATHS: Final = (
    *("/generate", "/score", "/reflect", "/describe", "/roundtrip"),
    *("/v1/images/generations", "/v1/images/edits"),
)
_ABOUT: Final = (
    "A prompt goes in; the model reasons, draws, looks at what it drew, says what is wrong, and edits, until it is "
    "satisfied "
    "or the rounds are used up. Everything can be streamed. Every error is `application/problem+json` in one shape. "
    "`X-Request-ID` is echoed, or made."
)
_FAILED_JOBS: Final = (409, 422, 500, 503, 504)  # what a job that is waited for may end with
_WITHOUT_QUEUE: Final = HEALTH_PATHS - {"/readyz"} | {"/openapi.json", "/openapi.yaml"}
_KEY: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key of `r3 keys create`. A server on loopback for which no key was ever made asks for none.",
}


def install(app: FastAPI) -> None:
    """Make `app.openapi()` the whole contract."""

    def openapi() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _contract(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def openapi_yaml(app: FastAPI) -> str:
    """The contract as YAML: the same for the same source, whatever the machine."""
    text: str | None = getattr(app.state, "openapi_yaml", None)
    if text is None:  # anybody may ask for it, and it takes as long as a hundred other answers
        text = app.state.openapi_yaml = yaml.safe_dump(app.openapi(), sort_keys=False, allow_unicode=True, width=120)
    return text


def _contract(app: FastAPI) -> Json:
    document = get_openapi(
        title="R3",
        version=server.__version__,
        summary="Pictures that the model itself looks at and refines.",
        description=_ABOUT,
        license_info={"name": "Apache 2.0", "identifier": "Apache-2.0"},
        routes=app.routes,
        tags=[
            {"name": "generate", "description": "Ask for pictures."},
            {"name": "jobs", "description": "What became of it."},
            {"name": "images", "description": "The pictures."},
            {"name": "openai", "description": "The same for the `openai` clients."},
            {"name": "admin", "description": "For operators: the queues, and everyone's jobs."},
            {"name": "service", "description": "How the server is."},
        ],
    )
    document["servers"] = [{"url": "/"}]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"] = _responses(path, operation["responses"])
            operation["security"] = [] if is_open(path) else [{"key": []}, {}]
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _parameter(parameter["schema"])
    for path, model in _BODIES.items():
        document["paths"][path]["post"]["requestBody"] = {
            "required": True,
            "content": {"multipart/form-data" if path in _FORMS else "application/json": {"schema": ref(model)}},
        }
    for path in _JOB_PATHS:
        for status in _FAILED_JOBS:
            answer = document["paths"][path]["post"]["responses"][str(status_below(path, status))]
            location = {"Location": text_header("The job, where one was made and failed.")}
            answer["headers"] = {**answer.get("headers", {}), **location}
    document["components"] = {"schemas": _schemas(), "securitySchemes": {"key": _KEY}}
    return document


def _responses(path: str, stated: Json) -> Json:
    """What the route states, and what any request may meet on its way there."""
    closed = [] if is_open(path) else [401, 429]
    foreign = [] if path in HEALTH_PATHS else [403]
    more = problems(*closed, *foreign, 431, 500, *([] if path in _WITHOUT_QUEUE else [503]))
    own = {status: answer for status, answer in stated.items() if "HTTPValidationError" not in str(answer)}
    for answer in own.values():
        # FastAPI's guess at what a route answers, where it cannot know.
        if answer.get("content", {}).get("application/json") == {"schema": {}}:
            del answer["content"]["application/json"]
    merged = {**own, **{str(status): answer for status, answer in more.items()}}
    return {status: merged[status] for status in sorted(merged)}


def _parameter(schema: Json) -> Json:
    """A parameter is there or not; it cannot be null."""
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind != {"type": "null"}]
    return {name: part for name, part in kinds[0].items() if name not in ("title", "description")}


def _schemas() -> Json:
    models: list[type[BaseModel]] = [*_BODIES.values(), R3Settings, *_ANSWERED, *SHAPES, *_OPERATORS, *EVENTS.values()]
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    found: Json = definitions["$defs"]
    found["EventStream"] = stream_schema()
    found["GenerationStream"] = openai_stream_schema(GENERATION_EVENTS)
    found["EditStream"] = openai_stream_schema(EDIT_EVENTS)
    return {name: _tidied(found[name]) for name in sorted(found)}


def _tidied(schema: Any) -> Any:
    """Without what pydantic adds and no reader needs: titles that repeat the name, and null as default of what is not
    null.
    """
    if isinstance(schema, list):
        return [_tidied(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    has_null = {"type": "null"} in schema.get("anyOf", ())
    return {
        name: _tidied(part)
        for name, part in schema.items()
        if not (name == "title" and isinstance(part, str)) and not (name == "default" and part is None and not has_null)
    }
