"""What the `openai` clients may ask for under /v1, and the request of POST /generate that it stands for. Pure.

Most fields are those of /generate under the same names; `r3` holds any of the others. What OpenAI has and nothing here
answers to (`quality`, `style`, `user`, …) is taken and has no effect; what would have to change the picture
(`background`, `mask`, …) and cannot is refused by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from server.faults import Fault, faults_of_pydantic, pointer_to
from server.resolve import Read, placed, read_generation
from server.schemas import (
    MAX_PROMPT_CHARS,
    SIZE,
    GenerateSamplingCreate,
    GenerationCreate,
    OutputFormat,
    RefineSamplingCreate,
    ResponseFormat,
    size_text,
)

AUTO: Final = "auto"
_NO_EFFECT: Final = "Taken, and of no effect here."
_SAME: Final = ("model", "n", "size", "response_format", "output_format", "output_compression", "stream")
_REFUSED: Final = {
    "mask": "is not supported: an edit is of the whole picture; remove it, and say in the prompt what is to change",
    "markup": "is not supported: an edit is told in words; remove it, and say in the prompt what is to change",
    "svg": "is not supported: no vectors are drawn here; remove it",
    "frame_count": "is not supported: nothing moving is drawn here; remove it",
    "frame_duration_ms": "is not supported: nothing moving is drawn here; remove it",
}

Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS)]


def _size_or_auto(value: str) -> str:
    return value if value == AUTO else size_text(value)


class R3Settings(GenerationCreate):
    """Any field of POST /generate."""

    prompt: Prompt | None = Field(  # type: ignore[assignment]
        None, description="Of an edit: what the picture is to show in the end; the loop goes on towards it."
    )


class ImagesCreate(BaseModel):
    """What generations and edits share."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    prompt: Prompt
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None, description="A name of /v1/models; may be left out where only one is known."
    )
    n: Annotated[int, Field(ge=1, le=4)] | None = Field(None, description="How many pictures; 1 unless given.")
    size: (
        Annotated[str, AfterValidator(_size_or_auto), Field(json_schema_extra={"pattern": f"^auto$|{SIZE.pattern}"})]
        | None
    ) = Field(None, description="WIDTHxHEIGHT, or auto for the model's own.")
    response_format: ResponseFormat | None = Field(
        None, description="b64_json unless given; the pictures of a stream are always sent so."
    )
    output_format: OutputFormat | None = Field(None, description="png unless given.")
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None, description="Quality of webp and jpeg, 100 the best; png has no other than 100."
    )
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = Field(
        None, description="With stream: the most unfinished pictures that each of the n sends; 0 unless given."
    )
    background: Literal["auto", "opaque"] | None = Field(None, description="Pictures are opaque here.")
    quality: Any = Field(None, description=_NO_EFFECT)
    moderation: Any = Field(None, description=_NO_EFFECT)
    user: Any = Field(None, description=_NO_EFFECT)
    safety_identifier: Any = Field(None, description=_NO_EFFECT)
    complexity: Any = Field(None, description=_NO_EFFECT)
    r3: Annotated[dict[str, Any], WithJsonSchema({"$ref": "#/components/schemas/R3Settings"})] | None = Field(
        None, description="Any field of POST /generate."
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None or k == "prompt"} if isinstance(value, dict) else value


class ImagesGenerate(ImagesCreate):
    """The body of POST /v1/images/generations."""

    style: Any = Field(None, description=_NO_EFFECT)


class ImagesEdit(ImagesCreate):
    """The form of POST /v1/images/edits. What is nested is written r3[max_rounds], or r3 is one text of JSON."""

    image: Annotated[str, WithJsonSchema({"type": "string", "contentMediaType": "application/octet-stream"})] = Field(
        description="The picture to edit, one file: PNG, JPEG or WebP."
    )
    input_fidelity: Any = Field(None, description=_NO_EFFECT)


@dataclass(frozen=True)
class ImagesRead:
    """A body under /v1 as far as it can be read: what /generate would be asked, and what it has no word for."""

    read: Read[GenerationCreate]
    partial_images: int = 0
    upload: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class _Given:
    """The fields that are right in themselves, the names of the others, and what is wrong with these."""

    fields: dict[str, Any]
    wrong: frozenset[str]
    faults: list[Fault]
    size_text: str


def read_generations(value: Any, *, may_return: bool) -> ImagesRead:
    """The body of POST /v1/images/generations. `may_return` says that a client that is gone may come back for it."""
    given = _read(ImagesGenerate, value)
    return _translated(given, {"prompt": "prompt"}, {"cancel_on_disconnect": not may_return})


def read_edits(value: dict[str, Any], upload: bytes | None, *, may_return: bool) -> ImagesRead:
    """The form of POST /v1/images/edits, and its file, for which its hash stands in the request."""
    if upload is not None:
        value = {**value, "image": f"sha256:{hashlib.sha256(upload).hexdigest()}"}
    given = _read(ImagesEdit, value)
    own = given.fields.get("r3") or {}
    defaults: dict[str, Any] = {"cancel_on_disconnect": not may_return}
    if own.get("prompt") is None:  # then the one edit is all that is asked for
        defaults |= {"prompt": given.fields.get("prompt", "-"), "max_rounds": 1}
    translated = _translated(given, {"prompt": "instruction", "image": "image"}, defaults)
    return replace(translated, upload=upload)


def previews_for(partial_images: int, max_rounds: int, *, of_edit: bool) -> int:
    """How many of a trajectory's partial images are previews: what rejected pictures, one a round at most, leave. The
    upload of an edit is none of those that are drawn here.
    """
    return max(0, partial_images - (max_rounds - 1 if of_edit else max_rounds))


def _read(model: type[ImagesCreate], value: Any) -> _Given:
    try:
        return _Given(model.model_validate(value).model_dump(exclude_unset=True), frozenset(), [], "")
    except ValidationError as error:
        found = error.errors(include_url=False)
        unknown = {str(fault["loc"][0]) for fault in found if fault["type"] == "extra_forbidden"}
        why_not = {**{name: why for name in unknown if (why := _of_r3(name, model))}, **_REFUSED}
        refused = [Fault(f"/{name}", why) for name, why in why_not.items() if _has(value, name)]
        told = [fault for fault in found if fault["type"] != "extra_forbidden" or fault["loc"][0] not in why_not]
        wrong = frozenset(str(fault["loc"][0]) for fault in found if fault["loc"])
        faults = [*refused, *faults_of_pydantic(told, known=model.model_fields)]
        fields = value if isinstance(value, dict) else {}
        kept = {name: v for name, v in fields.items() if name not in wrong and v is not None}
        return _Given(kept, wrong, faults, str(fields.get("size", ""))[:100])


def _of_r3(name: str, model: type[ImagesCreate]) -> str:
    """What to say of a field that stands beside the prompt in POST /generate, or in a part of it, and not here."""
    if name == "instruction" and model is ImagesEdit:
        return "is the prompt here; give it as that"
    if name in GenerationCreate.model_fields:
        place = f'"{name}": …'
    elif name in RefineSamplingCreate.model_fields:
        part = "generate" if name in GenerateSamplingCreate.model_fields else "refine"
        place = f'"{part}": {{"{name}": …}}'
    else:
        return ""
    return f'stands in r3 here; send {{"r3": {{{place}}}}}, in Python by extra_body'


def _has(value: Any, name: str) -> bool:
    return isinstance(value, dict) and value.get(name) is not None


def _translated(given: _Given, names: Mapping[str, str], defaults: Mapping[str, Any]) -> ImagesRead:
    """`names` says what the fields are called in /generate, beside those that are called the same there."""
    called = {**{name: name for name in _SAME}, **names}
    own: dict[str, Any] = {name: v for name, v in (given.fields.get("r3") or {}).items() if v is not None}
    above = {called[name]: v for name, v in given.fields.items() if name in called}
    if above.get("size") == AUTO:
        del above["size"]
    if above.get("output_compression") == 100 and (own | above).get("output_format", "png") == "png":
        del above["output_compression"]  # OpenAI's own default, which many send
    at = {called[name]: f"/{name}" for name in (*given.fields, *given.wrong) if name in called}
    twice = [
        Fault(f"/r3/{name}", f"is given beside {at[name][1:]}, and is not the same; give one of them")
        for name in above
        if name in own and own[name] != above[name]
    ]
    value = {"prompt": "-", "response_format": "b64_json", **defaults, **own, **above}
    if value.get("stream") is True:
        value["response_format"] = "b64_json"
    places = {name: f"/r3/{name}" for name in (*GenerationCreate.model_fields, *(pointer_to([n])[1:] for n in own))}
    places |= at
    if "prompt" not in own:
        places["prompt"] = "/prompt"
    read = read_generation(value)
    faults = [*given.faults, *twice, *(placed(fault, places) for fault in read.faults)]
    wrong = read.wrong | {called.get(name, name) for name in given.wrong}
    size = given.size_text if "size" in given.wrong else read.size_text
    return ImagesRead(Read(read.body, faults, wrong, size, places), given.fields.get("partial_images", 0))
