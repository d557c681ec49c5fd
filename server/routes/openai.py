"""/v1: pictures for the `openai` clients. The same jobs as those of POST /generate, asked for and told in other words.

Who closes the stream, or the connection before the answer, cancels the job, and so does whatever keeps us from
answering: these clients cannot come back to it, and try again by themselves. With an Idempotency-Key they can, so that
it goes on then. It goes on too where we end a stream that has begun: nobody tries that again, and the error says where
the job is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Request
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from server.body import read_json
from server.callers import Caller, Maker, Reader
from server.errors import invalid_request, json_response
from server.faults import ApiError, Fault, pointer_to
from server.form import Form, form_value, read_form
from server.job_end import Waiting, failure, told, until_ended
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
_AGAIN: Final = {"Retry-After": "10"}  # a server that ends and begins again takes longer than a moment


@dataclass(frozen=True)
class _Made:
    """A job, and how its end is told. The request's body is no part of it: who waits for pictures is not to hold an
    upload in memory all the while.
    """

    caller: Caller
    job: StoredJob
    kind: Kind
    is_stream: bool
    most: tuple[int, int]
    """How many partial images a trajectory sends, and how many of them are previews."""
    gives_up: bool
    base: str
    headers: Mapping[str, str]


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
    return await _answered(request, parts, await _generation(request, parts, caller, idempotency_key))


@router.post(
    "/images/edits",
    operation_id="editImage",
    summary="Edit a picture",
    responses=images_responses("EditStream"),
    dependencies=[Depends(refuse_token)],
)
async def edits(request: Request, parts: Parts, caller: Maker, idempotency_key: IdempotencyKey = None) -> Response:
    """Carries out the prompt as an edit of the picture; with `r3[prompt]`, goes on until the picture shows that."""
    return await _answered(request, parts, await _edit(request, parts, caller, idempotency_key))


allow_head(router)


def _model(description: Any) -> dict[str, Any]:
    return model_object(model_json(description))


def _edit_of(form: Form) -> tuple[dict[str, Any], bytes | None]:
    """The fields of the form and its picture. Raises ApiError invalid_request."""
    value = form_value(form.texts, SCHEMAS["ImagesEdit"], SCHEMAS)
    pictures = [content for name, content in form.files if name in ("image", "image[]")]
    count = len(pictures) + ("image" in value)
    if count > 1:
        raise invalid_request([Fault("/image", f"is there {count} times; one picture can be edited at a time")])
    others = [name for name, _ in form.files if name not in ("image", "image[]")]
    if texts := [name for name in others if name.partition("[")[0] in SCHEMAS["ImagesEdit"]["properties"]]:
        why = "is a file; send it as text, which curl takes from a file by -F 'NAME=<FILE' and not by @"
        raise invalid_request([Fault(pointer_to([name]), why) for name in texts])
    return {**value, **dict.fromkeys(others, "a file")}, pictures[0] if pictures else None


async def _generation(request: Request, parts: Service, caller: Caller, key: str | None) -> _Made:
    value = await read_json(request)
    asked = read_generations(value, may_return=key is not None)
    known_by = await hash_of(request, ["generations", value])
    return await _made(request, parts, caller, asked, ("image_generation", known_by))


async def _edit(request: Request, parts: Service, caller: Caller, key: str | None) -> _Made:
    value, upload = _edit_of(await read_form(request))
    asked = read_edits(value, upload, may_return=key is not None)
    known_by = await hash_of(request, ["edits", value, asked.read.body.image])
    return await _made(request, parts, caller, asked, ("image_edit", known_by))


async def _made(
    request: Request, parts: Service, caller: Caller, asked: ImagesRead, known_by: tuple[Kind, str]
) -> _Made:
    """The job. `known_by` is the hash by which a repeated request is known, and of which kind it is."""
    kind, body_hash = known_by
    keys = request.headers.getlist("idempotency-key")
    description = await judge(parts, asked.read)
    check_key(keys)
    body = asked.read.body
    rounds = description.defaults.max_rounds if body.max_rounds is None else body.max_rounds
    previews = previews_for(asked.partial_images, rounds, of_edit=kind == "image_edit")
    if body.stream and "previews" not in body.model_fields_set:
        body = body.model_copy(update={"previews": previews})
    key = keys[0] if keys else None
    job, replayed = await submit(request, parts, Asked(caller, body, description, key, body_hash, asked.upload))
    base = _base(request, parts)
    headers = {"Location": f"{base}/jobs/{job.id}", **({"Idempotent-Replayed": "true"} if replayed else {})}
    most = asked.partial_images, previews
    return _Made(caller, job, kind, bool(body.stream), most, bool(body.cancel_on_disconnect), base, headers)


async def _answered(request: Request, parts: Service, made: _Made) -> Response:
    """The pictures or their stream. Where neither comes about the client asks again by itself, and would have the job
    made twice; so it is given up.
    """
    give_up = partial(parts.giving_up.on, made.job.id) if made.gives_up else None
    try:
        if not made.is_stream:
            return await _waited(request, parts, made)
        words = OpenAiWords(parts.queue, parts.presenter.for_caller(made.caller), made.job, made.kind, made.most)
        stream = await parts.open_stream(made.caller, made.job, 0, words)
    except BaseException:
        if give_up is not None:
            give_up()
        raise
    return EventStreamResponse(stream, parts.metrics, made.headers, give_up)


async def _waited(request: Request, parts: Service, made: _Made) -> Response:
    """The final pictures. Raises ApiError for a job that came to nothing, and where the server ends before the job."""
    job, waiting = made.job, Waiting(made.caller, made.job, None, None)
    ended = await until_ended(request, parts, waiting)
    if ended is None:  # the client is gone, or we are about to be
        detail = f"the server is about to end; GET /jobs/{job.id} says what became of the job"
        raise ApiError("shutting_down", detail, headers={**made.headers, **_AGAIN}, extra={"job_id": job.id})
    if ended.status != "succeeded":
        raise failure(ended, made.headers, is_keyed="idempotency-key" in request.headers)
    tell = partial(_pictures, parts, made, ended)
    return json_response(await told(request, parts, waiting, tell, made.headers), 200, made.headers)


async def _pictures(parts: Service, made: _Made, job: StoredJob) -> dict[str, Any]:
    presenter = parts.presenter.for_caller(made.caller)
    found = [trajectory_json(job, index) for index in range(len(job.trajectories))]
    drawn = [trajectory for trajectory in found if trajectory["image"] is not None]
    shown = [{**trajectory, "image": await presenter.picture(job, trajectory["image"])} for trajectory in drawn]
    if not shown or (job.params["response_format"] == "b64_json" and any("b64_json" not in t["image"] for t in shown)):
        detail = f"a picture of {job.id} could not be read"
        raise ApiError("storage_failed", detail, headers=made.headers, extra={"job_id": job.id})
    return images_response(job, shown, made.base)


def _base(request: Request, parts: Service) -> str:
    """What makes links absolute, without a slash at its end."""
    return (parts.settings.public_url or f"{request.url.scheme}://{request.url.netloc}").rstrip("/")
