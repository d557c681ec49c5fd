"""Other models' features of a picture, by transformers, from weights that an operator has on this machine.

    CLIP     the projected embedding of the picture
    DINO     the class token of DINOv2 or DINOv3 after the last norm
Only safetensors are read, and nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from PIL import Image as PILImage
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    CLIPVisionModelWithProjection,
    Dinov2Model,
    DINOv3ViTModel,
)

from r3core.errors import CheckpointError

if TYPE_CHECKING:
    from r3core.events import Pixels

# By `model_type` of config.json: the class, and where its features are in what it gives.
_KINDS: Final[dict[str, tuple[Any, Callable[[Any], Tensor]]]] = {
    "clip": (CLIPVisionModelWithProjection, lambda out: out.image_embeds),
    "clip_vision_model": (CLIPVisionModelWithProjection, lambda out: out.image_embeds),
    "dinov2": (Dinov2Model, lambda out: out.pooler_output),
    "dinov3_vit": (DINOv3ViTModel, lambda out: out.pooler_output),
}


@dataclass(frozen=True)
class Similarity:
    """A model whose features of two pictures are compared; `name` is the operator's."""

    name: str
    model: Any
    processor: Any
    read: Callable[[Any], Tensor]

    def features(self, pixels: Pixels) -> Tensor:
        """What the model makes of uint8 [height, width, 3]: [d], float32."""
        given = self.processor(images=PILImage.fromarray(pixels), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            return self.read(self.model(pixel_values=given.to(self.model.device))).float()[0]


def load_similarities(named: Sequence[tuple[str, Path]], device: torch.device) -> tuple[Similarity, ...]:
    """The models of these folders. Raises CheckpointError that names what cannot be read."""
    return tuple(_load(name, path, device) for name, path in named)


def _load(name: str, path: Path, device: torch.device) -> Similarity:
    if not path.is_dir():
        raise CheckpointError(f"similarity model {name}: {path} is no folder; name one with config.json and weights")
    try:
        kind: str = AutoConfig.from_pretrained(path, local_files_only=True).model_type
        if kind not in _KINDS:
            known = ", ".join(_KINDS)
            raise CheckpointError(f"similarity model {name}: {path} is of type {kind!r}, and what is known is {known}")
        cls, read = _KINDS[kind]
        model = cls.from_pretrained(path, local_files_only=True, use_safetensors=True, dtype=torch.float32)
        processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"similarity model {name}: {path} cannot be read: {error}") from error
    return Similarity(name, model.to(device).eval().requires_grad_(requires_grad=False), processor, read)
