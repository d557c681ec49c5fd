"""Other models' features of a picture, by transformers, from weights that an operator has on this machine.

    CLIP     the projected embedding of the picture
    DINO     the class token of DINOv2 or DINOv3, after the last norm
Only safetensors are read, and nothing is fetched. Pictures are prepared here as preprocessor_config.json says: what
transformers has for DINOv3 wants torchvision, and whether that is installed must not change a number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from transformers import AutoConfig, CLIPVisionModelWithProjection, Dinov2Model, DINOv3ViTModel
from transformers.utils import logging

from r3core.errors import CheckpointError
from r3core.headers import read_json

if TYPE_CHECKING:
    from r3core.events import Pixels

# By `model_type` of config.json: the class, and where its features are in what it gives.
_KINDS: Final[dict[str, tuple[Any, Callable[[Any], Tensor]]]] = {
    "clip_vision_model": (CLIPVisionModelWithProjection, lambda out: out.image_embeds),
    "dinov2": (Dinov2Model, lambda out: out.pooler_output),
    "dinov3_vit": (DINOv3ViTModel, lambda out: out.pooler_output),
}


@dataclass(frozen=True)
class Preparation:
    """From pixels to what a model was trained on. Sizes are (width, height) in pixels; `shortest` keeps the shape."""

    size: tuple[int, int]
    shortest: bool
    crop: tuple[int, int] | None
    resample: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, path: Path) -> Preparation:
        """What preprocessor_config.json says. Older files give one number for a size."""
        said = read_json(path)
        size, crop = said["size"], said.get("crop_size")
        shortest = not isinstance(size, dict) or "shortest_edge" in size
        edge = size["shortest_edge"] if isinstance(size, dict) and shortest else size
        return cls(
            size=(edge, edge) if shortest else (size["width"], size["height"]),
            shortest=shortest,
            crop=_pair(crop) if crop is not None and said.get("do_center_crop", True) else None,
            resample=said.get("resample", int(PILImage.Resampling.BICUBIC)),
            scale=said.get("rescale_factor", 1 / 255),
            mean=tuple(said["image_mean"]),
            std=tuple(said["image_std"]),
        )

    def __call__(self, pixels: Pixels) -> Tensor:
        """uint8 [height, width, 3] -> [1, 3, h, w], float32."""
        image = PILImage.fromarray(pixels)
        width, height = self.size
        if self.shortest:
            short = min(image.size)
            width, height = (int(width * side / short) for side in image.size)
        image = image.resize((width, height), PILImage.Resampling(self.resample))
        if self.crop is not None:
            left, top = (width - self.crop[0]) // 2, (height - self.crop[1]) // 2
            image = image.crop((left, top, left + self.crop[0], top + self.crop[1]))
        values = (np.asarray(image, dtype=np.float32) * self.scale - np.array(self.mean)) / np.array(self.std)
        return torch.from_numpy(values.astype(np.float32).transpose(2, 0, 1)[None].copy())


@dataclass(frozen=True)
class Similarity:
    """A model whose features of two pictures are compared; `name` is the operator's."""

    name: str
    model: Any
    prepare: Preparation
    read: Callable[[Any], Tensor]

    def features(self, pixels: Pixels) -> Tensor:
        """What the model makes of uint8 [height, width, 3]: [d], float32."""
        with torch.inference_mode():
            return self.read(self.model(pixel_values=self.prepare(pixels).to(self.model.device))).float()[0]


def load_similarities(named: Sequence[tuple[str, Path]], device: torch.device) -> tuple[Similarity, ...]:
    """The models of these folders. Raises CheckpointError that names what cannot be read."""
    return tuple(_load(name, path, device) for name, path in named)


def _load(name: str, path: Path, device: torch.device) -> Similarity:
    what = f"similarity model {name}: {path}"
    if not path.is_dir():
        raise CheckpointError(f"{what} is no folder; name one with config.json and weights")
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what a whole CLIP has beside its eye is no fault
    try:
        prepare = Preparation.read(path / "preprocessor_config.json")
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        if config.model_type == "clip":  # whose eye may not know how wide the two halves meet
            config.vision_config.projection_dim = config.projection_dim
            config = config.vision_config
        cls, read = _KINDS[config.model_type]
        model, said = cls.from_pretrained(
            path,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, CheckpointError) as error:
        kinds = "CLIP, DINOv2 or DINOv3 in transformers' form, with safetensors and preprocessor_config.json"
        raise CheckpointError(f"{what} cannot be read ({type(error).__name__}: {error}); name {kinds}") from error
    if said["missing_keys"]:  # transformers would go on with random numbers in their place
        missing = ", ".join(sorted(said["missing_keys"])[:3])
        raise CheckpointError(f"{what} lacks {missing}; take the whole checkpoint")
    return Similarity(name, model.to(device).eval().requires_grad_(requires_grad=False), prepare, read)


def _pair(size: Any) -> tuple[int, int]:
    return (size["width"], size["height"]) if isinstance(size, dict) else (size, size)
