"""/v1: pictures for the `openai` clients. The same jobs as those of POST /generate, asked for and told in other words.

Who closes the stream, or the connection before the answer, cancels the job: these clients cannot come back to it, and
try again by themselves. With an Idempotency-Key they can, so that it goes on then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Request
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from server.body import read_json
from server.callers import Caller, Maker, Reader
from server.errors import invalid_request, json_response
from server.faults import ApiError, Fault
from server.form import Form, form_value, read_form
from server.job_end import Waiting, canceller, failure, until_ended
from server.job_view import trajectory_json
from server.openai_request import ImagesEdit, ImagesRead, R3Settings, previews_for, read_edits, read_generations
from server.openai_shapes import MODEL_RESPONSES, MODELS_RESPONSES, images_responses
from server.openai_stream import OpenAiWords
from server.openai_view import Kind, images_response, model_object
from server.queue import StoredJob
from server.routes import allow_head
from server.routes.service import model_json
from server.service import Parts, Service, refuse_token
from server.sse import EventStreamResponse
from server.submission import Asked, check_key, hash_of, judge, submit

router = APIRouter(prefix="/v1", tags=["openai"])

_, _DEFINED = models_json_schema([(ImagesEdit, "validation"), (R3Settings, "validation")])
SCHEMAS: Final[dict[str, Any]] = _DEFINED["$defs"]
"""By name, those of the form of an edit."""


@dataclass(frozen=True)
class _Face:
    """In whose words a stream speaks, and by what a repeated request is known."""

    kind: Kind
    body_hash: str


IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", description="The same key with the same body gives the same job, for 24 hours."),
]


@router.get("/models", operation_id="listModels", summary="List models", responses=MODELS_RESPONSES)
async def list_models(parts: Parts, _caller: Reader) -> Response:
    """Every known model; beside what OpenAI's list says, what /info says."""
    known = await parts.catalogue.known()
    return json_response({"object": "list", "data": [_model(known[name]) for name in sorted(known)]})


@router.get("/models/{model_id:path}", operation_id="getModel", summary="Look up a model", responses=MODEL_RESPONSES)
async def get_model(parts: Parts, _caller: Reader, model_id: str) -> Response:
    """One model."""
    return json_response(_model(await parts.catalogue.find(model_id)))


@router.post(
    "/images/generations",
    operation_id="createImages",
    summary="Make pictures",
    responses=images_responses("GenerationStream"),
    dependencies=[Depends(refuse_token)],
)
async def generations(
    request: Request, parts: Parts, caller: Maker, idempotency_key: IdempotencyKey = None
) -> Response:
    """Answers with the final pictures once all are finished, or with a stream of pictures."""
    value = await read_json(request)
    asked = read_generations(value, may_return=idempotency_key is not None)
    return await _answered(request, parts, caller, asked, _Face("image_generation", hash_of(["generations", value])))


@router.post(
    "/images/edits",
    operation_id="editImage",
    summary="Edit a picture",
    responses=images_responses("EditStream"),
    dependencies=[Depends(refuse_token)],
)
async def edits(request: Request, parts: Parts, caller: Maker, idempotency_key: IdempotencyKey = None) -> Response:
    """Carries out the prompt as an edit of the picture; with `r3[prompt]`, goes on until the picture shows that."""
    form = await read_form(request)
    value, upload = _edit_of(form)
    asked = read_edits(value, upload, may_return=idempotency_key is not None)
    body_hash = hash_of(["edits", value, asked.read.body.image])
    return await _answered(request, parts, caller, asked, _Face("image_edit", body_hash))


allow_head(router)


def _model(description: Any) -> dict[str, Any]:
    return model_object(model_json(description))


def _edit_of(form: Form) -> tuple[dict[str, Any], bytes | None]:
    """The fields of the form and its picture. Raises ApiError invalid_request."""
    value = form_value(form.texts, SCHEMAS["ImagesEdit"], SCHEMAS)
    pictures = [content for name, content in form.files if name in ("image", "image[]")]
    if len(pictures) > 1:
        raise invalid_request([Fault("/image", f"is there {len(pictures)} times; one picture can be edited at a time")])
    others = {name: "a file" for name, _ in form.files if name not in ("image", "image[]")}
    return {**value, **others}, pictures[0] if pictures else None


async def _answered(request: Request, parts: Service, caller: Caller, asked: ImagesRead, face: _Face) -> Response:
    keys = request.headers.getlist("idempotency-key")
    description = await judge(parts, asked.read)
    check_key(keys)
    body = asked.read.body
    rounds = description.defaults.max_rounds if body.max_rounds is None else body.max_rounds
    previews = previews_for(asked.partial_images, rounds)
    if body.stream and "previews" not in body.model_fields_set:
        body = body.model_copy(update={"previews": previews})
    key = keys[0] if keys else None
    job, replayed = await submit(request, parts, Asked(caller, body, description, key, face.body_hash, asked.upload))
    base = _base(request, parts)
    headers = {"Location": f"{base}/jobs/{job.id}", **({"Idempotent-Replayed": "true"} if replayed else {})}
    give_up = canceller(parts, job) if body.cancel_on_disconnect else None
    if not body.stream:
        return await _waited(request, parts, Waiting(caller, job, None, give_up), headers, base)
    presenter = parts.presenter.for_caller(caller)
    words = OpenAiWords(parts.queue, presenter, job, face.kind, (asked.partial_images, previews))
    return EventStreamResponse(await parts.open_stream(caller, job, 0, words), parts.metrics, headers, give_up)


async def _waited(request: Request, parts: Service, waiting: Waiting, headers: dict[str, str], base: str) -> Response:
    """The final pictures. Raises ApiError for a job that came to nothing, and where the server ends before the job."""
    job, give_up = waiting.job, waiting.on_hang_up
    ended = await until_ended(request, parts, replace(waiting, on_hang_up=None))
    if ended is None:  # the client is gone, or we are about to be: then it tries again by itself
        if give_up is not None:
            await give_up()
        detail = f"the server is about to end; GET /jobs/{job.id} says what became of the job"
        raise ApiError("shutting_down", detail, headers={**headers, "Retry-After": "1"}, extra={"job_id": job.id})
    if ended.status != "succeeded":
        raise failure(ended, headers)
    return json_response(await _pictures(parts, waiting.caller, ended, base), 200, headers)


async def _pictures(parts: Service, caller: Caller, job: StoredJob, base: str) -> dict[str, Any]:
    presenter = parts.presenter.for_caller(caller)
    found = [trajectory_json(job, index) for index in range(len(job.trajectories))]
    drawn = [trajectory for trajectory in found if trajectory["image"] is not None]
    shown = [{**trajectory, "image": await presenter.picture(job, trajectory["image"])} for trajectory in drawn]
    if not shown or (job.params["response_format"] == "b64_json" and any("b64_json" not in t["image"] for t in shown)):
        raise ApiError("storage_failed", f"a picture of {job.id} could not be read", extra={"job_id": job.id})
    return images_response(job, shown, base)


def _base(request: Request, parts: Service) -> str:
    """What makes links absolute, without a slash at its end."""
    return (parts.settings.public_url or f"{request.url.scheme}://{request.url.netloc}").rstrip("/")
