"""What the device will hold, counted from sizes before any of it is allocated.

Weights, the K/V cache, and the most that is held for a while:

    rows       those of the largest packed forward, through a layer of the transformer
    logits     of every text that is being written
    decoding   of the largest picture, in the VAE; encoding one, or looking at one with the ViT, takes less
    waiting    from one turn to the next: what pictures look like to the decoder, and drawings that are not finished
"""

from __future__ import annotations

from typing import Final

import torch

from r3core.checkpoint import Description
from r3core.config import EngineConfig
from r3core.engine.aside import decodings
from r3core.engine.batch import MemoryPlan
from r3core.engine.drafting import MOST_ROWS
from r3core.engine.rows import MARKERS
from r3core.errors import DeviceError
from r3core.model.bagel import ModelConfig, laid_out_bytes
from r3core.model.image_processing import resize_to
from r3core.model.sampling import choosing_bytes

_TYPICAL_TEXT: Final = 1024  # tokens of prompt, question and system prompt that every planned trajectory may have
_LONGEST_TEXT: Final = 8192  # one trajectory alone may have this many
_RESERVE: Final = 2 * 2**30  # device memory left to the CUDA context and to kernels' workspaces
_BRANCHES: Final = 3  # of a guided step, at the most
_FEW: Final = 4  # trajectories for which the cache should have room before forwards are as large as they may be
_KEPT_PICTURES: Final = 2  # that each trajectory may look at again: its last, and the one before or the best
_CANDIDATES: Final = 8  # drawings of a step, whose states are small


def plan_memory(  # noqa: PLR0913, PLR0917 - every number that the plan is made of
    config: EngineConfig,
    model: ModelConfig,
    description: Description,
    device: str,
    dtype: torch.dtype,
    weights_bytes: int,
    free_bytes: int | None = None,
    total_bytes: int | None = None,
) -> MemoryPlan:
    """The plan for a checkpoint of these sizes. `free_bytes` is what the device has left beside the weights, None where
    it is not bounded. Where that is not enough for the cache of a few trajectories forwards are made smaller, and else
    the cache is. Raises DeviceError where not even one trajectory finds room.
    """
    width = torch.finfo(dtype).bits // 8
    decoder = model.decoder
    row_bytes = decoder.layers * 2 * decoder.kv_heads * decoder.head_dim * width
    wanted = _rows_wanted(config, model, description)
    rows = config.kv_cache_bytes // row_bytes if config.kv_cache_bytes else wanted
    latents, patches = _picture_rows(model, description)
    kept = config.max_trajectories * _KEPT_PICTURES * patches
    others = decodings(torch.device(device)) * _vae_bytes(model, description)
    others += kept * decoder.hidden * width + config.max_trajectories * latents * _token_bytes(model, width)
    least = _rows_of_one(model, description) + _TYPICAL_TEXT
    drawn = _BRANCHES * (latents + MARKERS)
    again = laid_out_bytes(decoder, torch.device(device), dtype)
    notes = ["the decoder's weights are held once more, as oneDNN reads them"] if again else []
    whole = forward = max(config.max_batch_rows, description.max_context_tokens, drawn)

    def taken(at_once: int) -> int:
        return others + _forward_bytes(config, model, at_once, width)

    if free_bytes is not None:
        room, few = free_bytes - _RESERVE, min(rows, least * min(_FEW, config.max_trajectories))
        while forward > max(drawn, least) and room - taken(forward) < few * row_bytes:
            forward = max(forward // 2, drawn, least)
        if forward < whole:
            notes.append(f"forwards were cut from {whole} rows to {forward} for room, and no prompt may have more")
        fitting = (room - taken(forward)) // row_bytes
        if fitting < rows:
            notes.append(f"the cache was cut from {rows} rows to what is free; fewer trajectories run at once")
            rows = fitting
    if rows < least:
        raise DeviceError(
            f"{device} has room for {max(rows, 0)} K/V rows beside the weights, and one trajectory of this checkpoint "
            f"needs {least}; free memory on it, take a larger one, lower R3_MAX_TRAJECTORIES, or raise R3_KV_CACHE_GB "
            "where that is the limit"
        )
    return MemoryPlan(
        device,
        weights_bytes + again,
        rows * row_bytes,
        rows,
        taken(forward),
        total_bytes,
        tuple(notes),
        batch_rows=min(config.max_batch_rows, forward),
        forward_rows=forward,
        kept_rows=kept,
    )


def _forward_bytes(config: EngineConfig, model: ModelConfig, rows: int, width: int) -> int:
    """A packed forward of new contexts and drawings of so many rows, with all texts that are being written."""
    decoder = model.decoder
    writing = max(config.max_trajectories, MOST_ROWS)  # the next token of each, and those that are drafted
    logits = decoder.vocab * (width + 4)  # computed in the model's dtype, read in fp32
    row = decoder.hidden * width
    layer = (rows + writing) * (3 * decoder.intermediate * width + 8 * row)
    # Ids are chosen where the layers had their activations, of which what went in and what came out is left.
    choosing = (rows + writing) * 2 * row + choosing_bytes(decoder.vocab, writing)
    return max(layer, choosing) + writing * logits


def _token_bytes(model: ModelConfig, width: int) -> int:
    """What waits of a token that is drawn: its place; and of each candidate what it is before and after a step, what it
    would come to, and the velocities that a step cache goes on from, those before and those after.
    """
    return model.decoder.hidden * width + _CANDIDATES * (3 + 2 * _BRANCHES) * model.token_channels * 4


def _vae_bytes(model: ModelConfig, description: Description) -> int:
    """What decoding the largest picture holds at once, in fp32.

    At each resolution what came up from the one below is held to its end. Its first block norms and activates that; a
    later one has its input, what it makes of it, their sum, and that scaled.
    """
    width, height = _largest(description)
    channels = model.vae.channels
    come = (*channels[1:], channels[-1])  # from below
    levels = enumerate(zip(come, channels, strict=True))
    most = max(max(above + 4 * own, 3 * above + own) / 4**level for level, (above, own) in levels)
    return int(most * width * height * 4)


def _largest(description: Description) -> tuple[int, int]:
    """The largest picture of this checkpoint, (width, height)."""
    side = description.latent_side * description.latent_stride
    return resize_to((side, side), description.transforms["vae"])


def _picture_rows(model: ModelConfig, description: Description) -> tuple[int, int]:
    """The largest picture as latents and as patches."""
    largest = _largest(description)
    vit = resize_to(largest, description.transforms["vit"])
    latents = (largest[0] // description.latent_stride) * (largest[1] // description.latent_stride)
    return latents, (vit[0] // model.vit.patch) * (vit[1] // model.vit.patch)


def _rows_of_one(model: ModelConfig, description: Description) -> int:
    """Cache rows of refining the largest picture of this checkpoint, which is seen as latents and as patches."""
    return sum(_picture_rows(model, description)) + 2 * MARKERS


def _rows_wanted(config: EngineConfig, model: ModelConfig, description: Description) -> int:
    picture = _rows_of_one(model, description)
    return max(config.max_trajectories * (picture + _TYPICAL_TEXT), picture + _LONGEST_TEXT)
