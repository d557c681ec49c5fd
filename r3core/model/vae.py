"""The hand and the paper: the FLUX-form VAE, as diffusers' AutoencoderKL under a map of weight names.

Encoding gives the posterior's mean, never a sample. Latents are scale * (mean - shift); pixels become uint8 by
truncation (r3-model: sections 4 and 13; the reference's modeling/autoencoder.py). Weights stay float32; where the
model runs in bf16, convolutions run in bf16 under autocast, as the reference's do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

SCALE: Final = 0.3611
SHIFT: Final = 0.1159
_GROUPS: Final = 32


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of the VAE, all from tensor shapes. `channels` of each resolution, full resolution first."""

    channels: tuple[int, ...]
    blocks: int
    latent_channels: int

    @property
    def downsample(self) -> int:
        """Pixels on a side of one latent."""
        return int(2 ** (len(self.channels) - 1))


def build(config: VAEConfig) -> AutoencoderKL:
    """diffusers' module for these sizes, weights not set."""
    levels = len(config.channels)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=config.channels,
        layers_per_block=config.blocks,
        latent_channels=config.latent_channels,
        norm_num_groups=_GROUPS,
        act_fn="silu",
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        mid_block_add_attention=True,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=SCALE,
        shift_factor=SHIFT,
    )


class VAE(nn.Module):
    """Pixels to latent and back; `compute` is the dtype that convolutions run in."""

    def __init__(self, config: VAEConfig, compute: torch.dtype) -> None:
        super().__init__()
        self.config, self.compute = config, compute
        self.model = build(config)

    def encode(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, H, W] in [-1, 1] -> latent [B, z, H/f, W/f], float32."""
        with self._autocast(pixels.device):
            mean: Tensor = self.model.encode(pixels).latent_dist.mean
        out: Tensor = SCALE * (mean.float() - SHIFT)
        return out

    def moments(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, H, W] -> (mean, log variance) on dim 1, [B, 2z, h, w], float32."""
        with self._autocast(pixels.device):
            out: Tensor = self.model.encode(pixels).latent_dist.parameters
        return out.float()

    def decode(self, latent: Tensor) -> Tensor:
        """latent [B, z, h, w] -> pixels [B, 3, H, W], about [-1, 1], float32."""
        with self._autocast(latent.device):
            out: Tensor = self.model.decode(latent / SCALE + SHIFT).sample
        return out.float()

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.compute == torch.bfloat16)


def to_uint8(pixels: Tensor) -> Tensor:
    """pixels [B, 3, H, W] in [-1, 1] -> uint8 [B, H, W, 3], by truncation."""
    return ((pixels * 0.5 + 0.5).clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1)


def pack(latent: Tensor, patch: int) -> Tensor:
    """latent [z, h, w] -> tokens [n, patch * patch * z], row by row, inside a token (row, column, channel)."""
    z, height, width = latent.shape
    grid = latent.reshape(z, height // patch, patch, width // patch, patch)
    return grid.permute(1, 3, 2, 4, 0).reshape(-1, patch * patch * z)


def unpack(tokens: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """tokens [n, patch * patch * z] of a (rows, columns) grid -> latent [z, rows * patch, columns * patch]."""
    rows, columns = grid
    cells = tokens.reshape(rows, columns, patch, patch, -1)
    return cells.permute(4, 0, 2, 1, 3).reshape(-1, rows * patch, columns * patch)


_RENAMES: Final = (
    (r"\.mid\.block_1\.", r".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", r".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", r".mid_block.attentions.0."),
    (r"\.(down|up)\.(\d+)\.block\.(\d+)\.", r".\1_blocks.\2.resnets.\3."),
    (r"\.(down|up)\.(\d+)\.(down|up)sample\.conv\.", r".\1_blocks.\2.\3samplers.0.conv."),
    (r"\.nin_shortcut\.", r".conv_shortcut."),
    (r"\.norm_out\.", r".conv_norm_out."),
)
_UP: Final = re.compile(r"\.up_blocks\.(\d+)\.")
_ATTENTION: Final = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def diffusers_name(name: str, levels: int) -> str:
    """The name in diffusers' module of a tensor in ae.safetensors."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    # The decoder counts resolutions from the finest on disk, from the coarsest in diffusers.
    name = _UP.sub(lambda level: f".up_blocks.{levels - 1 - int(level[1])}.", name)
    head, mark, tail = name.partition(".attentions.0.")
    if mark:
        part, _, leaf = tail.rpartition(".")
        return f"{head}{mark}{_ATTENTION.get(part, part)}.{leaf}"
    return name
