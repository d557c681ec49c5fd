"""The small model's VAE: FLUX form, trained on rendered scenes, its latents normalised inside its own convolutions.

Latents that the model sees are 0.3611 * (mean - 0.1159) for every checkpoint; here the encoder's last and the decoder's
first convolution are rescaled after training, so that these are standard normal channel by channel.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from r3core.model.vae import SCALE, SHIFT, VAE, VAEConfig, diffusers_name
from training.progress import Report

Scenes = Callable[[int, np.random.Generator], NDArray[np.uint8]]


def to_pixels(images: NDArray[np.uint8]) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [-1, 1], as the model's preprocessing gives them."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.5)


def train_vae(
    config: VAEConfig, scenes: Scenes, device: torch.device, *, steps: int, batch: int, seed: int, report: Report
) -> VAE:
    """Train from nothing; a weighted L2 and L1 on pixels, small noise on latents so that the decoder forgives."""
    torch.manual_seed(seed)
    vae = VAE(config, compute=torch.bfloat16).to(device)
    vae.requires_grad_(True).train()
    model = vae.model
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.97), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.08)
    draws = np.random.default_rng(seed)
    for step in range(steps):
        images = scenes(batch, draws)
        pixels = to_pixels(images).to(device)
        loss, error = _loss(model, pixels)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        line = f"step {step + 1}/{steps} loss {loss.item():.4f} mean absolute error {error.item() * 127.5:.2f} of 255"
        report("VAE", step + 1, steps, line if (step + 1) % 50 == 0 else None)
    vae.eval().requires_grad_(False)
    normalise(vae, scenes(256, draws))
    return vae


def _loss(model: AutoencoderKL, pixels: Tensor) -> tuple[Tensor, Tensor]:
    with torch.autocast(pixels.device.type, dtype=torch.bfloat16):
        mean = model.encode(pixels).latent_dist.mean
        spread = mean.detach().float().std().clamp(min=0.05)
        noisy = mean + torch.randn_like(mean) * (0.1 * spread * torch.rand(mean.shape[0], 1, 1, 1, device=mean.device))
        out = model.decode(noisy).sample
    difference = out.float() - pixels
    background = pixels.mean(dim=(2, 3), keepdim=True)
    weight = 1 + 3 * ((pixels - background).abs().amax(1, keepdim=True) > 0.25).float()
    squared = (weight * difference.square()).mean()
    return squared + 0.3 * (
        weight * difference.abs()
    ).mean() + 1e-4 * mean.float().square().mean(), difference.abs().mean()


def normalise(vae: VAE, images: NDArray[np.uint8]) -> None:
    """Fold the latents' mean and spread into the convolutions around them, so that served latents are standard."""
    model, channels = vae.model, vae.config.latent_channels
    device = next(model.parameters()).device
    with torch.no_grad():
        mean = torch.cat(
            [model.encode(to_pixels(part).to(device)).latent_dist.mean for part in np.array_split(images, 8)]
        )
        centre, spread = mean.mean(dim=(0, 2, 3)), mean.std(dim=(0, 2, 3))
        # served = SCALE * (new - SHIFT) must be (old - centre) / spread
        gain = 1 / (SCALE * spread)
        shift = SHIFT - centre * gain
        out, into = model.encoder.conv_out, model.decoder.conv_in
        out.weight[:channels] *= gain[:, None, None, None]
        out.bias[:channels] = out.bias[:channels] * gain + shift
        # The decoder's zero padding stood for old latents of 0 at the border; it now stands for others. Kept exact
        # inside.
        into.bias += (into.weight * (-shift / gain)[None, :, None, None]).sum(dim=(1, 2, 3))
        into.weight /= gain[None, :, None, None]


def save_vae(vae: VAE, path: Path) -> None:
    """Write ae.safetensors under the names of the FLUX form, float32."""
    state = vae.model.state_dict()
    tensors = {}
    for name in _flux_names(vae.config):
        for leaf in ("weight", "bias"):
            value = state[diffusers_name(f"{name}.{leaf}", len(vae.config.channels))]
            if ".attn_1." in name and value.ndim == 2:
                value = value[:, :, None, None]  # 1x1 convolutions on disk
            tensors[f"{name}.{leaf}"] = value.float().contiguous()
    save_file(tensors, path)


def _flux_names(config: VAEConfig) -> list[str]:
    levels = len(config.channels)
    names = []
    for half, word, blocks, sample in (
        ("encoder", "down", config.blocks, "downsample"),
        ("decoder", "up", config.blocks + 1, "upsample"),
    ):
        names += [f"{half}.{n}" for n in ("conv_in", "norm_out", "conv_out")]
        names += [f"{half}.mid.{b}.{n}" for b in ("block_1", "block_2") for n in ("norm1", "conv1", "norm2", "conv2")]
        names += [f"{half}.mid.attn_1.{n}" for n in ("norm", "q", "k", "v", "proj_out")]
        for level in range(levels):
            names += [
                f"{half}.{word}.{level}.block.{b}.{n}"
                for b in range(blocks)
                for n in ("norm1", "conv1", "norm2", "conv2")
            ]
            if _widens(config, half, level):
                names.append(f"{half}.{word}.{level}.block.0.nin_shortcut")
            # The encoder halves after every level but the last, the decoder doubles after every one but the finest.
            if (half == "encoder" and level < levels - 1) or (half == "decoder" and level > 0):
                names.append(f"{half}.{word}.{level}.{sample}.conv")
    return names


def _widens(config: VAEConfig, half: str, level: int) -> bool:
    """Whether the first block of a level changes the number of channels."""
    channels, levels = config.channels, len(config.channels)
    if half == "encoder":
        before = channels[0] if level == 0 else channels[level - 1]
    else:
        before = channels[-1] if level == levels - 1 else channels[level + 1]
    return before != channels[level]
