"""What the jobs beside a generation may be asked for: the fields of POST /score, /reflect, /describe and /roundtrip but
for prompts and pictures, which are arguments. docs/looking.md says what they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from r3client.models import Image, Scorer
from r3client.settings import ImageSampling, TextSampling, Webhook, refuse_ours, sendable

if TYPE_CHECKING:
    import PIL.Image

Picture: TypeAlias = "str | bytes | Path | Image | PIL.Image.Image"
"""An image's id, base64, bytes, a file, or a picture of this client's or of Pillow's."""
Task = Literal["score", "reflect", "describe", "roundtrip"]


class _Job(TypedDict, total=False):
    model: str
    seed: int
    response_format: Literal["url", "b64_json"]
    priority: Literal["high", "normal", "low"]
    deadline_s: float
    webhook: Webhook
    metadata: dict[str, str]


class Scoring(_Job, total=False):
    """The settings of a score."""

    scorers: list[Scorer]
    reflect: TextSampling


class Reflecting(_Job, total=False):
    """The settings of a reflection."""

    reflect: TextSampling


class Describing(_Job, TextSampling, total=False):
    """The settings of a description."""

    question: str


class RoundTrip(_Job, total=False):
    """The settings of a round trip; `think`, `size` and `reason` where it begins with a prompt."""

    think: bool
    size: str
    reason: TextSampling
    describe: TextSampling
    generate: ImageSampling
    previews: int
    output_format: Literal["png", "webp", "jpeg"]
    output_compression: int


def task_body(given: Mapping[str, Any]) -> dict[str, Any]:
    """The body of such a job, its pictures encoded; what is None is left out. Large pictures take a while.

    Raises TypeError for fields that the client decides itself.
    """
    refuse_ours(given)
    body = {name: value for name, value in given.items() if value is not None}
    if "image" in body:
        body["image"] = sendable(body["image"])
    if "images" in body:
        body["images"] = [sendable(image) for image in body["images"]]
    return body


def scored_fields(prompt: str, images: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """One picture, or several in a list or tuple."""
    pictures = {"images": list(images)} if isinstance(images, list | tuple) else {"image": images}
    return {"prompt": prompt, **pictures, **settings}
