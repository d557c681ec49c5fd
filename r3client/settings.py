"""What a generation may be asked for: the fields of POST /generate. The server is their judge, and its errors say more
than types can.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

from r3client.models import Image, Scorer

if TYPE_CHECKING:
    import PIL.Image


class TextSampling(TypedDict, total=False):
    """How a text is sampled."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int


class ImageSampling(TypedDict, total=False):
    """How a picture is drawn; `cfg_img_scale` in edits only."""

    num_timesteps: int
    cfg_text_scale: float
    cfg_img_scale: float
    cfg_interval: tuple[float, float]
    cfg_renorm_type: Literal["global", "channel", "text_channel"]
    cfg_renorm_min: float
    timestep_shift: float
    step_cache: int


class ScoreStop(TypedDict, total=False):
    """Which score ends the trajectory: one that is reached, or one that has not risen for `patience` rounds."""

    scorer: Scorer
    at_least: float
    min_gain: float
    patience: int


class EarlyStop(TypedDict, total=False):
    """When a satisfied model, or the scores, end the trajectory; with `all` only where all of them say so."""

    on_satisfied: bool
    confirmations: int
    score: ScoreStop
    all: bool


class Judge(TypedDict, total=False):
    """Which scores every picture is given; the first decides where one is to be chosen."""

    scorers: list[Scorer]


class Candidates(TypedDict, total=False):
    """How many pictures are drawn, of which the best goes on: of the first, and of each edit."""

    first: int
    refine: int


class Webhook(TypedDict, total=False):
    """Where the job's end is POSTed to."""

    url: str
    events: list[str]


class Generation(TypedDict, total=False):
    """The settings of a generation; what is left out is the server's default. docs/api.md says what they do."""

    model: str
    image: str | bytes | Path | Image | PIL.Image.Image
    instruction: str
    max_rounds: int
    min_rounds: int
    early_stop: bool | EarlyStop
    judge: Judge
    choose: Literal["last", "best"]
    on_regression: Literal["keep", "backtrack"]
    candidates: Candidates
    max_images: int
    think: bool
    size: str
    n: int
    seed: int
    reason: TextSampling
    reflect: TextSampling
    generate: ImageSampling
    refine: ImageSampling
    previews: int
    response_format: Literal["url", "b64_json"]
    output_format: Literal["png", "webp", "jpeg"]
    output_compression: int
    priority: Literal["high", "normal", "low"]
    deadline_s: float
    webhook: Webhook
    metadata: dict[str, str]


_OURS: Final = {
    "stream": "stream() streams, and generate() waits",
    "cancel_on_disconnect": "this client comes back after a lost connection; say cancel() to end a job",
}


def body_of(prompt: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The body of POST /generate. Raises TypeError for fields that the client decides itself."""
    refuse_ours(settings)
    body = {"prompt": prompt, **settings}
    if "image" in body:
        body["image"] = sendable(body["image"])
    return body


def refuse_ours(settings: Mapping[str, Any]) -> None:
    """Raises TypeError for fields that the client decides itself."""
    for name in settings:
        if name in _OURS:
            raise TypeError(f"{name} cannot be set: {_OURS[name]}")


def sendable(image: Any) -> Any:
    """A picture as JSON carries it: an id and base64 as they are, all else as base64; a large one takes a while."""
    if isinstance(image, Image):
        return image.id
    if isinstance(image, Path):
        return _base64(image.read_bytes())
    if isinstance(image, bytes | bytearray):
        return _base64(bytes(image))
    if hasattr(image, "save"):  # a PIL image; Pillow need not be here to ask
        return _base64(_png(image))
    return image


def _png(image: PIL.Image.Image) -> bytes:
    """As it is to be looked at: turned as its EXIF says, which a PNG would not keep."""
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(image)
    if turned.mode not in ("L", "LA", "RGB", "RGBA"):
        turned = turned.convert("RGBA" if turned.has_transparency_data else "RGB")
    out = io.BytesIO()
    turned.save(out, "PNG")
    return out.getvalue()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
