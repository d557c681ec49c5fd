"""The same as resolve.py for the jobs beside POST /generate: score, reflect, describe and roundtrip. Pure.

All of them come to a request of the loop's own kind, with one trajectory and no rounds to follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from r3core.checkpoint import Description
from r3core.model.image_processing import Size
from r3core.types import DESCRIBE_DEFAULTS, Request
from server.faults import Fault, Found
from server.resolve import compression_faults, fields, merged, postable, size_faults
from server.schemas import JobCreate, TextSamplingCreate
from server.sizes import parse_size
from server.task_schemas import DescribeCreate, ReflectCreate, RoundtripCreate, ScoreCreate

Json = dict[str, Any]
_SHOWN = {"response_format", "output_format", "output_compression", "priority", "deadline_s", "cancel_on_disconnect"}


def score_faults(body: ScoreCreate, _description: Description) -> Found:
    """One picture or several."""
    if body.image is None and body.images is None:
        yield fields("image", "images"), Fault("/image", "is missing; give it, or images where there are several")
    elif body.image is not None and body.images is not None:
        yield fields("image", "images"), Fault("/images", "is given beside image; give one of them")


def roundtrip_faults(body: RoundtripCreate, description: Description) -> Found:
    """A picture, or what to draw one from."""
    if body.image is None and body.prompt is None:
        yield fields("image", "prompt"), Fault("/image", "is missing; give it, or a prompt to draw it from")
    elif body.image is not None and body.prompt is not None:
        yield fields("image", "prompt"), Fault("/prompt", "is given beside image; give one of them")
    if body.image is None:
        yield from size_faults(body.size, description)
    elif body.size is not None:
        fault = Fault("/size", f"is {body.size}, but the result has the size of image; leave it out")
        yield fields("size", "image"), fault
    yield from compression_faults(body.output_format, body.output_compression)


def no_faults(_body: JobCreate, _description: Description) -> Found:
    """A body whose fields are judged each by itself."""
    return iter(())


def score_request(body: ScoreCreate, description: Description, seed: int, given: Sequence[Size]) -> Request:
    """Each picture has a size of its own; the request's is that of the largest."""
    width, height = max(given, key=lambda size: size[0] * size[1])
    reflect = merged(description.defaults.reflect, body.reflect)
    asked = _looking(body.prompt, (width, height), seed)
    return Request(**asked, kind="score", scorers=tuple(body.scorers), reflect=reflect)


def reflect_request(body: ReflectCreate, description: Description, seed: int, given: Sequence[Size]) -> Request:
    """One reflection on the picture."""
    reflect = merged(description.defaults.reflect, body.reflect)
    return Request(**_looking(body.prompt, given[0], seed), kind="reflect", reflect=reflect)


def describe_request(body: DescribeCreate, _description: Description, seed: int, given: Sequence[Size]) -> Request:
    """One text about the picture."""
    sampling = TextSamplingCreate(**body.model_dump(include=set(TextSamplingCreate.model_fields)))
    describe = merged(DESCRIBE_DEFAULTS, sampling)
    return Request(**_looking("", given[0], seed), kind="describe", question=body.question, describe=describe)


def roundtrip_request(body: RoundtripCreate, description: Description, seed: int, given: Sequence[Size]) -> Request:
    """The picture of the description has the size of the first."""
    defaults = description.defaults
    width, height = given[0] if given else parse_size(body.size) if body.size else description.default_size
    return Request(
        prompt=body.prompt or "",
        width=width,
        height=height,
        seed=seed,
        max_rounds=0,
        think=body.think and not given,
        given_image=bool(given),
        reason=merged(defaults.reason, body.reason),
        generate=merged(defaults.generate, body.generate),
        previews=body.previews,
        kind="roundtrip",
        describe=merged(DESCRIBE_DEFAULTS, body.describe),
    )


def task_params(request: Request, body: JobCreate, start_images: Sequence[str]) -> Json:
    """What such a job shows under `params`: posting them again, with the prompt where it has one, asks for the same."""
    settings = postable(asdict(request))
    taken = type(body).model_fields
    own = {name: value for name, value in settings.items() if name in taken and name != "prompt"}
    if isinstance(body, DescribeCreate):
        own |= settings["describe"]
    if "size" in taken and not start_images:
        own["size"] = f"{request.width}x{request.height}"
    pictures: Json = {"image": start_images[0] if start_images else None}
    if isinstance(body, ScoreCreate) and body.images is not None:
        pictures = {"images": list(start_images)}
    return {**own, **body.model_dump(include=_SHOWN), **(pictures if "image" in taken else {})}


def _looking(prompt: str, size: Size, seed: int) -> Json:
    """A request that looks at a picture of the caller's and draws nothing."""
    width, height = size
    plain = {"prompt": prompt, "width": width, "height": height, "seed": seed}
    return {**plain, "max_rounds": 0, "think": False, "given_image": True}
