"""Rectified flow: guidance and Euler steps as pure functions (r3-model: section 6; the reference's bagel.py
generate_image).

v points from data to noise; x goes from t = 1 (noise) to t = 0 (latent) by x <- x - v * (t - t_next).
"""

from __future__ import annotations

import torch
from torch import Tensor

from r3core.types import ImageSampling


def guide(settings: ImageSampling, v: Tensor, v_text: Tensor | None = None, v_image: Tensor | None = None) -> Tensor:
    """The velocity of one picture from its branches, each [n tokens, d].

    `v_text` and `v_image` are the branches without text and without picture, None where they were not run. Renorm never
    amplifies; `text_channel` scales before the picture's guidance, `global` (over the whole picture) and `channel` (per
    token) after it.
    """
    if v_text is None:
        return v
    a, b = settings.cfg_text_scale, settings.cfg_img_scale
    guided = v_text + a * (v - v_text)
    if settings.cfg_renorm_type == "text_channel":
        guided = guided * _renorm(settings, v, guided)
        return guided if v_image is None else v_image + b * (guided - v_image)
    if v_image is not None:
        guided = v_image + b * (guided - v_image)
    return guided * _renorm(settings, v, guided)


def _renorm(settings: ImageSampling, v: Tensor, guided: Tensor) -> Tensor:
    per_token = settings.cfg_renorm_type != "global"
    dims = (-1,) if per_token else (-2, -1)
    plain = torch.linalg.vector_norm(v.float(), dim=dims, keepdim=True)
    length = torch.linalg.vector_norm(guided.float(), dim=dims, keepdim=True)
    ratio: Tensor = plain / (length + 1e-8)
    return ratio.clamp(min=settings.cfg_renorm_min, max=1.0)


def euler(x: Tensor, v: Tensor, t: float, t_next: float) -> Tensor:
    """One step from t down to t_next."""
    return x - v.to(x.dtype) * float(torch.tensor(t) - torch.tensor(t_next))


def extrapolate(before: Tensor, v: Tensor, t_before: float, t: float, at: float) -> Tensor:
    """A velocity at a later time, where it goes on as it went from `before` to `v`: exact for one that is linear in
    time. Times that a shift has rounded to one leave it as it is.
    """
    return v if t == t_before else v + (v - before) * ((at - t) / (t - t_before))


def clean(x: Tensor, v: Tensor, t: float) -> Tensor:
    """The latent that x would come to if v held to the end: x0 = x - t * v."""
    return x - v.to(x.dtype) * t
