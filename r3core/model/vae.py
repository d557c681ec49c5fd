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

from r3core.model.one_thread import of_one_thread

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

    def ready(self) -> None:
        """Lay the weights as the device's convolutions read them: on a CPU channels last saves a tenth and more."""
        if next(self.model.parameters()).device.type == "cpu":
            self.model.to(memory_format=torch.channels_last)
            of_one_thread(self.model, nn.GroupNorm, nn.SiLU)

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


# Names on disk and in diffusers' module; {} stands for a number.
_NAMES: Final = (
    (".mid.block_1.", ".mid_block.resnets.0."),
    (".mid.block_2.", ".mid_block.resnets.1."),
    (".mid.attn_1.norm.", ".mid_block.attentions.0.group_norm."),
    (".mid.attn_1.q.", ".mid_block.attentions.0.to_q."),
    (".mid.attn_1.k.", ".mid_block.attentions.0.to_k."),
    (".mid.attn_1.v.", ".mid_block.attentions.0.to_v."),
    (".mid.attn_1.proj_out.", ".mid_block.attentions.0.to_out.0."),
    (".down.{}.block.{}.", ".down_blocks.{}.resnets.{}."),
    (".up.{}.block.{}.", ".up_blocks.{}.resnets.{}."),
    (".down.{}.downsample.conv.", ".down_blocks.{}.downsamplers.0.conv."),
    (".up.{}.upsample.conv.", ".up_blocks.{}.upsamplers.0.conv."),
    (".nin_shortcut.", ".conv_shortcut."),
    (".norm_out.", ".conv_norm_out."),
)
_UP: Final = re.compile(r"\.up_blocks\.(\d+)\.")


def diffusers_name(name: str, levels: int) -> str:
    """The name in diffusers' module of a tensor in ae.safetensors."""
    for ours, theirs in _NAMES:
        name = _renamed(name, ours, theirs)
    return _levels_reversed(name, levels)


def name_on_disk(name: str, levels: int) -> str:
    """The name in ae.safetensors of a tensor in diffusers' module."""
    name = _levels_reversed(name, levels)
    for ours, theirs in _NAMES:
        name = _renamed(name, theirs, ours)
    return name


def _renamed(name: str, old: str, new: str) -> str:
    pattern = re.escape(old).replace(r"\{\}", r"(\d+)")
    return re.sub(pattern, lambda found: new.format(*found.groups()), name)


def _levels_reversed(name: str, levels: int) -> str:
    """The decoder counts resolutions from the finest on disk, from the coarsest in diffusers."""
    return _UP.sub(lambda level: f".up_blocks.{levels - 1 - int(level[1])}.", name)
