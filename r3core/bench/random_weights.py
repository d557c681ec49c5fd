"""BAGEL-7B-MoT's true sizes, and models of random weights made where they will run: speed needs no checkpoint.

Random weights write no sentences and never stop, so that texts have their full length and every round is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import nn

from r3core.checkpoint import Defaults, Description, Transform, find_files
from r3core.config import AttentionWanted, EngineConfig
from r3core.model.attention import choose
from r3core.model.bagel import Bagel, Model, ModelConfig
from r3core.model.layers import DecoderConfig, RMSNorm
from r3core.model.tokenizer import Tokenizer
from r3core.model.vae import VAE, VAEConfig
from r3core.model.vit import ViTConfig
from r3core.model.weights import Loaded
from r3core.runtime import Runtime, build
from r3core.types import TextSampling

TRUE_SIZE: Final = ModelConfig(
    decoder=DecoderConfig(3584, 18944, 28, 28, 4, 152064, 1e-6, 1e6, 32768),
    vit=ViTConfig(1152, 4304, 26, 16, 14, 70, 1e-6),
    vae=VAEConfig((128, 256, 512, 512), 2, 16),
    latent_patch=2,
    latent_side=64,
    vit_side=70,
)
SMALL: Final = ModelConfig(
    decoder=DecoderConfig(128, 256, 2, 4, 2, 2048, 1e-6, 1e6, 32768),
    vit=ViTConfig(64, 128, 2, 4, 14, 70, 1e-6),
    vae=VAEConfig((32, 32, 32, 64), 1, 16),
    latent_patch=2,
    latent_side=64,
    vit_side=70,
)
_SPREAD: Final = 0.02

# R3's own transforms serve 512 pixels, BAGEL's 1024; the last are for the small sizes.
_TRANSFORMS: Final[dict[int, dict[str, Transform]]] = {
    1024: {"vae": (1024, 512, 16), "vit": (980, 224, 14)},
    512: {"vae": (512, 256, 16), "vit": (504, 252, 14)},
    128: {"vae": (128, 32, 16), "vit": (112, 28, 14)},
    64: {"vae": (128, 32, 16), "vit": (112, 28, 14)},
}


def random_weights(config: ModelConfig, files: Path, device: torch.device, dtype: torch.dtype) -> Loaded:
    """A model of these sizes; `files` is a folder with a tokenizer and configs, for which any checkpoint's serve."""
    model = random_model(config, device, dtype)
    held = sum(p.numel() * p.element_size() for m in (model.bagel, model.vae) for p in m.parameters())
    found = find_files(files)
    return Loaded(model, found, Tokenizer(found.tokenizer), (), held)


def random_runtime(loaded: Loaded, side: int, loops: int, attention: AttentionWanted = "auto") -> Runtime:
    """An engine around them for pictures of this side, with places for so many loops. Raises DeviceError for an
    attention that does not work on their device.
    """
    bagel, config = loaded.model.bagel, loaded.model.config
    setup = EngineConfig(loaded.files.llm_config.parent, max_trajectories=loops)
    choice = choose(bagel.device, bagel.dtype, attention, config.decoder.attended)
    return build(setup, loaded, description(config, side), choice)


def random_model(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Model:
    """Norms as they begin, everything else normal; one generator, so that it is the same every time."""
    with torch.device("meta"):
        bagel, vae = Bagel(config), VAE(config.vae, compute=dtype)
    generator = torch.Generator(device=device).manual_seed(0)
    for module, wanted in ((bagel, dtype), (vae, torch.float32)):
        for owner in module.modules():
            for name, parameter in list(owner.named_parameters(recurse=False)):
                value = torch.empty(parameter.shape, dtype=wanted, device=device)
                if isinstance(owner, RMSNorm | nn.LayerNorm | nn.GroupNorm):
                    value.fill_(1.0 if name == "weight" else 0.0)
                else:
                    value.normal_(0.0, _SPREAD, generator=generator)
                setattr(owner, name, nn.Parameter(value, requires_grad=False))
    bagel.ready()
    vae.ready()
    return Model(bagel, vae.eval(), config)


def description(config: ModelConfig, side: int) -> Description:
    """R3's own values at this side, but for texts: a plan of 196 tokens and reflections of 150, and two refinements."""
    return Description(
        name=f"random weights, {config.decoder.layers} layers of {config.decoder.hidden}",
        description="",
        licence="",
        hash="random",
        transforms=_TRANSFORMS[side],
        latent_stride=config.latent_stride,
        latent_side=config.latent_side,
        vit_side=config.vit_side,
        default_size=(side, side),
        defaults=Defaults(max_rounds=2, reason=TextSampling(max_tokens=196), reflect=TextSampling(max_tokens=150)),
        example_prompts=(),
        max_context_tokens=config.decoder.max_positions,
    )
