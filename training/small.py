"""What the small model is: its sizes, its transforms, and an untrained one."""

from __future__ import annotations

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


def config(vocab: int) -> ModelConfig:
    """The sizes, for a tokenizer of so many ids."""
    return ModelConfig(
        decoder=DecoderConfig(
            hidden=192,
            intermediate=512,
            layers=8,
            heads=3,
            kv_heads=1,
            vocab=vocab,
            rms_norm_eps=1e-6,
            rope_theta=1e4,
            max_positions=4096,
        ),
        vit=ViTConfig(hidden=128, intermediate=384, layers=5, heads=2, patch=14, side=6, layer_norm_eps=1e-6),
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
