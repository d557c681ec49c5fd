"""The shapes of answers and events under /v1, as the contract states them; openai_view.py makes them."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from server.answers import answer, problems, ref, text_header
from server.errors import CODES
from server.openai_errors import PREFIX, status_below
from server.service_views import ModelView
from server.views import JobId, Json, OpenAiError, View


class ModelObject(ModelView):
    """A model."""

    id: str
    object: Literal["model"]
    created: int = Field(description="Not known: 0.")
    owned_by: str


class ModelList(View):
    """All models that are known."""

    object: Literal["list"]
    data: list[ModelObject]


class TokenDetails(View):
    """Tokens by what they stand for."""

    image_tokens: int
    text_tokens: int


class ImagesUsage(View):
    """Text tokens that the model wrote; others are not counted."""

    input_tokens: int
    input_tokens_details: TokenDetails
    output_tokens: int
    output_tokens_details: TokenDetails
    total_tokens: int


class ImageData(View):
    """A picture: its bytes, or where it is."""

    b64_json: str | SkipJsonSchema[None] = Field(None, description="Where response_format is b64_json.")
    url: str | SkipJsonSchema[None] = Field(None, description="Absolute; where response_format is url.")
    revised_prompt: str | None = Field(description="The model's reasoning; null where it wrote none.")


class OfJob(View):
    """Of which job it is."""

    job_id: JobId


class OfRound(OfJob):
    """Of which of the job's n trajectories, and of which round."""

    trajectory: int
    round: int


class ImagesResponse(View):
    """The final pictures, one a trajectory."""

    created: int
    background: Literal["opaque"]
    output_format: Literal["png", "webp", "jpeg"]
    size: str
    data: list[ImageData]
    usage: ImagesUsage
    r3: OfJob


class ImageEvent(View):
    """What every picture of a stream says."""

    b64_json: str
    created_at: int
    size: str
    quality: Literal["auto"]
    background: Literal["opaque"]
    output_format: Literal["png", "webp", "jpeg"]
    r3: OfRound


class _Partial(ImageEvent):
    """A picture that a reflection has rejected, or a preview of the first one."""

    partial_image_index: int = Field(description="From 0 in each trajectory.")


class _Completed(ImageEvent):
    """The final picture of a trajectory."""

    revised_prompt: str | None
    usage: ImagesUsage


class GenerationPartialImage(_Partial):
    """A picture that a reflection has rejected, or a preview of the first one."""

    type: Literal["image_generation.partial_image"]


class GenerationCompleted(_Completed):
    """The final picture of a trajectory."""

    type: Literal["image_generation.completed"]


class EditPartialImage(_Partial):
    """A picture that a reflection has rejected, or a preview of the first one."""

    type: Literal["image_edit.partial_image"]


class EditCompleted(_Completed):
    """The final picture of a trajectory."""

    type: Literal["image_edit.completed"]


class StreamError(View):
    """Last: the job has failed or was cancelled, or the stream was ended."""

    type: Literal["error"]
    error: OpenAiError


GENERATION_EVENTS: Final[dict[str, type[View]]] = {
    "image_generation.partial_image": GenerationPartialImage,
    "image_generation.completed": GenerationCompleted,
    "error": StreamError,
}
EDIT_EVENTS: Final[dict[str, type[View]]] = {
    "image_edit.partial_image": EditPartialImage,
    "image_edit.completed": EditCompleted,
    "error": StreamError,
}
SHAPES: Final[tuple[type[View], ...]] = (
    ModelList,
    ImagesResponse,
    *GENERATION_EVENTS.values(),
    EditPartialImage,
    EditCompleted,
)


def stream_schema(events: dict[str, type[View]]) -> Json:
    """An event of a stream, whose blocks carry no `id:`."""
    return {
        "description": "One of the stream's server-sent events. A heartbeat is a comment line.",
        "oneOf": [
            {
                "type": "object",
                "description": (model.__doc__ or "").strip(),
                "required": ["event", "data"],
                "properties": {
                    "event": {"const": name},
                    "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": ref(model)},
                },
            }
            for name, model in events.items()
        ],
    }


def images_responses(stream: str) -> dict[int | str, Json]:
    """What a route for pictures answers; `stream` is the component that says what its streams hold."""
    return {
        200: {
            "description": "The pictures, or with stream the events",
            "headers": {
                "Location": text_header("The job: absolute."),
                "Idempotent-Replayed": text_header("true where the key had made this job before."),
            },
            "content": {
                "application/json": {"schema": ref(ImagesResponse)},
                "text/event-stream": {"schema": {"$ref": f"#/components/schemas/{stream}"}},
            },
        },
        **_problems(404, 409, 413, 415, 429, 504),
    }


def _problems(*statuses: int) -> dict[int | str, Json]:
    """Those errors, and 400 for what other paths answer with 400 or 422."""
    bad = problems(400)[400]
    codes = [code for code, (status, _) in CODES.items() if status_below(PREFIX, status) == 400]
    return {400: {**bad, "description": f"code: {', '.join(codes)}"}, **problems(*statuses)}


MODELS_RESPONSES: Final = {**answer(200, ModelList, "The models"), **_problems()}
MODEL_RESPONSES: Final = {**answer(200, ModelObject, "The model"), **_problems(404)}
