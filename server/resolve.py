"""From what a client asked for and what the model says of itself to a request without open ends. Pure.

All faults of a body are found in one go: where some fields are wrong in themselves, the others are still judged
together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from r3core.checkpoint import Description
from r3core.model.image_processing import Size
from r3core.types import ImageSampling, Request, TextSampling
from server.faults import Fault, Found, faults_of_pydantic
from server.hook_rules import NOTHING_ALLOWED, Allowed, Target
from server.resolve_judge import early_stop_of, judge_faults, judged, shown_settings
from server.schemas import GenerateSamplingCreate, GenerationCreate, JobCreate
from server.sizes import is_legal, nearest_legal, parse_size

SEEDS_DRAWN_BELOW = 2**32
Sampling = TypeVar("Sampling", TextSampling, ImageSampling)
Body = TypeVar("Body", bound=JobCreate)


@dataclass(frozen=True)
class Read(Generic[Body]):
    """A body as far as it can be read: `wrong` names the fields that have faults, which stand in `body` as if left
    out; `size_text` is what was given as size, whatever it is. `places` says where in the client's body a field stands
    (a JSON pointer), if not under its own name.
    """

    body: Body
    faults: list[Fault]
    wrong: frozenset[str]
    size_text: str = ""
    places: Mapping[str, str] = field(default_factory=dict)


def read_generation(value: Any) -> Read[GenerationCreate]:
    """The body of POST /generate from its JSON value."""
    return read_body(GenerationCreate, value)


def read_body(model: type[Body], value: Any) -> Read[Body]:
    """A body from its JSON value; texts that must be there and are not stand in it as a dash."""
    try:
        return Read(model.model_validate(value), [], frozenset())
    except ValidationError as error:
        faults = faults_of_pydantic(error.errors(include_url=False), known=model.model_fields)
        wrong = frozenset(str(fault["loc"][0]) for fault in error.errors(include_url=False) if fault["loc"])
        rest = {k: v for k, v in value.items() if k not in wrong} if isinstance(value, dict) else {}
        size_text = str(value.get("size", ""))[:100] if isinstance(value, dict) else ""
        missing = {name: "-" for name, field in model.model_fields.items() if field.is_required()}
        return Read(model.model_validate({**missing, **rest}), faults, wrong, size_text)


def faults_against(
    read: Read[GenerationCreate], description: Description, hooks: Allowed = NOTHING_ALLOWED
) -> list[Fault]:
    """Every fault of the body of POST /generate."""
    return every_fault(read, description, faults_together, hooks)


def every_fault(
    read: Read[Body], description: Description, together: Callable[[Body, Description], Found], hooks: Allowed
) -> list[Fault]:
    """Every fault of a body: those of single fields, those that only show beside other fields or the model, which
    `together` finds, and those of where webhooks may go.
    """
    size = read.places.get("size", "/size")
    own = [_with_a_size(fault, read, description) if fault.pointer == size else fault for fault in read.faults]
    found = (*_hook_faults(read.body, hooks), *together(read.body, description))
    return [*own, *(placed(fault, read.places) for named, fault in found if not named & read.wrong)]


def placed(fault: Fault, places: Mapping[str, str]) -> Fault:
    """The fault where its field stands in the body that the client sent."""
    _, name, rest = f"{fault.pointer}/".split("/", 2)
    return Fault(f"{places[name]}/{rest}".rstrip("/"), fault.detail) if name in places else fault


def resolved(body: GenerationCreate, description: Description, seed: int, given: Size | None = None) -> Request:
    """The request with every default in its place; `given` is the size of the caller's picture as the model sees it."""
    defaults = description.defaults
    width, height = given or (parse_size(body.size) if body.size else description.default_size)
    return Request(
        prompt=body.prompt,
        width=width,
        height=height,
        seed=seed,
        max_rounds=_max_rounds(body, description),
        min_rounds=body.min_rounds,
        early_stop=early_stop_of(body.early_stop),
        think=body.think and given is None,
        n=body.n,
        given_image=given is not None,
        instruction=body.instruction,
        reason=merged(defaults.reason, body.reason),
        reflect=merged(defaults.reflect, body.reflect),
        generate=merged(defaults.generate, body.generate),
        refine=merged(defaults.refine, body.refine),
        previews=body.previews,
        **judged(body),
    )


def shown_params(request: Request, body: GenerationCreate, start_image: str | None) -> dict[str, Any]:
    """What a job shows under `params`: every setting as it was resolved, so that posting them again with the prompt,
    which stands beside them, asks for the same. A given picture has its own size.
    """
    settings = postable(shown_settings(request))
    size = f"{settings.pop('width')}x{settings.pop('height')}"
    for name in ("prompt", "given_image"):
        del settings[name]
    asked = body.model_dump(
        include={"response_format", "output_format", "output_compression", "priority", "deadline_s"}
    )
    drawn = {"size": size} if start_image is None else {}
    return {**drawn, **settings, **asked, "image": start_image, "cancel_on_disconnect": body.cancel_on_disconnect}


def postable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of the model's as POST /generate takes them: for a first picture there is none to be guided by."""
    taken = {name: v for name, v in settings["generate"].items() if name in GenerateSamplingCreate.model_fields}
    return {**settings, "generate": taken}


def _hook_faults(body: JobCreate, hooks: Allowed) -> Found:
    if body.webhook is None:
        return
    if not hooks:
        detail = "is off: the operator of this server allows no hosts; follow /jobs/{id}/events"
        yield fields("webhook"), Fault("/webhook", detail)
    elif refusal := hooks.refusal(Target.parse(body.webhook.url)):
        yield fields("webhook"), Fault("/webhook/url", f"{refusal}; use one that is, or follow /jobs/{{id}}/events")


def faults_together(body: GenerationCreate, description: Description) -> Found:
    """What only shows beside other fields or the model."""
    yield from _loop_faults(body, description)
    yield from judge_faults(body)


def _loop_faults(body: GenerationCreate, description: Description) -> Found:
    rounds = _max_rounds(body, description)
    if body.image is None:
        if body.instruction is not None:
            yield (
                fields("instruction", "image"),
                Fault("/instruction", "is an edit of image, which is missing; give one"),
            )
        yield from size_faults(body.size, description)
    else:
        if body.size is not None:
            yield (
                fields("size", "image"),
                Fault("/size", f"is {body.size}, but the result has the size of image; leave it out"),
            )
        if rounds < 1:
            yield (
                fields("max_rounds", "image"),
                Fault("/max_rounds", "is 0, but with image there is nothing to do without a round; make it at least 1"),
            )
    if body.min_rounds > rounds:
        detail = f"is {body.min_rounds}, more than max_rounds, {rounds}; lower it or raise max_rounds"
        yield fields("min_rounds", "max_rounds"), Fault("/min_rounds", detail)
    if body.early_stop.confirmations > 1 and merged(description.defaults.reflect, body.reflect).temperature == 0:
        detail = (
            f"is {body.early_stop.confirmations}, but at reflect.temperature 0 every answer is the same; "
            "make it 1 or raise the temperature"
        )
        yield fields("early_stop", "reflect"), Fault("/early_stop/confirmations", detail)
    yield from compression_faults(body.output_format, body.output_compression)


def compression_faults(output_format: str, compression: int | None) -> Found:
    """PNG cannot be compressed more or less."""
    if compression is not None and output_format == "png":
        detail = f"is {compression}, but PNG is lossless; remove it or ask for webp or jpeg"
        yield fields("output_compression", "output_format"), Fault("/output_compression", detail)


def _with_a_size(fault: Fault, read: Read[Body], description: Description) -> Fault:
    """A malformed size with one that would do: the nearest where two numbers can be read, else the default."""
    numbers = re.findall(r"(?<![0-9])[0-9]{1,5}(?![0-9])", read.size_text)
    if len(numbers) == 2:
        width, height = nearest_legal((int(numbers[0]), int(numbers[1])), description)
        return Fault(fault.pointer, f"{fault.detail}; the nearest is {width}x{height}")
    width, height = description.default_size
    return Fault(fault.pointer, f"{fault.detail}; the default is {width}x{height}")


def size_faults(asked: str | None, description: Description) -> Found:
    """A size that the model cannot draw."""
    if asked is None or is_legal(size := parse_size(asked), description):
        return
    width, height = nearest_legal(size, description)
    stride = description.latent_stride
    detail = (
        f"is {asked}, which this model cannot draw (multiples of {stride} that its transform leaves unchanged); "
        f"the nearest is {width}x{height}"
    )
    yield fields("size", "image"), Fault("/size", detail)


def fields(*names: str) -> frozenset[str]:
    """Those that a fault comes from."""
    return frozenset(names)


def _max_rounds(body: GenerationCreate, description: Description) -> int:
    return description.defaults.max_rounds if body.max_rounds is None else body.max_rounds


def merged(defaults: Sampling, asked: BaseModel) -> Sampling:
    """The defaults with what was asked for in their place."""
    given = asked.model_dump(exclude_none=True)
    if "cfg_interval" in given:
        low, high = given["cfg_interval"]
        given["cfg_interval"] = (low, high)
    return replace(defaults, **given)
