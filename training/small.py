"""What the small model is, and a larger one of its kind: sizes, transforms, and untrained weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from r3core.checkpoint import Transform
from r3core.model.bagel import Bagel, ModelConfig
from r3core.model.layers import DecoderConfig, RMSNorm
from r3core.model.vae import VAEConfig
from r3core.model.vit import ViTConfig

# A latent token is 32x32 pixels, one cell of the world; a ViT patch is a quarter of a cell's area.
TRANSFORMS: Final[dict[str, Transform]] = {"vae": (96, 96, 32), "vit": (84, 84, 14)}
VIT_PATCHES: Final = 36


@dataclass(frozen=True)
class Size:
    """What differs between sizes of the model; heads of the decoder and of the ViT are 64 wide."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vit_hidden: int
    vit_intermediate: int
    vit_layers: int


SIZES: Final = {
    "small": Size(192, 512, 8, 3, 1, 128, 384, 5),  # what two CPU cores can train
    "large": Size(384, 1024, 12, 6, 2, 256, 768, 7),  # for a GPU; it has never been trained
}


def config(vocab: int, size: str = "small") -> ModelConfig:
    """The sizes, for a tokenizer of so many ids. Raises KeyError for a name that is not in SIZES."""
    one = SIZES[size]
    return ModelConfig(
        decoder=DecoderConfig(
            hidden=one.hidden,
            intermediate=one.intermediate,
            layers=one.layers,
            heads=one.heads,
            kv_heads=one.kv_heads,
            vocab=vocab,
            rms_norm_eps=1e-6,
            rope_theta=1e4,
            max_positions=4096,
        ),
        vit=ViTConfig(
            hidden=one.vit_hidden,
            intermediate=one.vit_intermediate,
            layers=one.vit_layers,
            heads=one.vit_hidden // 64,
            patch=14,
            side=6,
            layer_norm_eps=1e-6,
        ),
        vae=VAEConfig(channels=(32, 32, 32, 64), blocks=1, latent_channels=4),
        latent_patch=4,
        latent_side=3,
        vit_side=6,
    )


def untrained(model: ModelConfig, seed: int, dtype: torch.dtype) -> Bagel:
    """A model with fresh weights; the velocity starts at zero."""
    torch.manual_seed(seed)
    bagel = Bagel(model)
    with torch.no_grad():
        for owner in bagel.modules():
            if isinstance(owner, RMSNorm):
                owner.weight.fill_(1.0)
            elif isinstance(owner, nn.Linear):
                owner.weight.normal_(0.0, owner.in_features**-0.5)
                if owner.bias is not None:
                    owner.bias.zero_()
            elif isinstance(owner, nn.Embedding):
                owner.weight.normal_(0.0, 0.5 if owner.num_embeddings == model.decoder.vocab else 0.02)
        bagel.language_model.lm_head.weight.mul_(0.2)
        bagel.llm2vae.weight.zero_()
    bagel.to(dtype)
    bagel.ready()
    return bagel
